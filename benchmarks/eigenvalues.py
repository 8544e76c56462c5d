"""K-FAC with and without eigenvalue correction (EKFAC, arXiv 1806.03884) on the digits.

    python benchmarks/eigenvalues.py [--seeds 0 1 2]

A TReLU MLP of 50 layers of 256, batch 128: steps until 99 % of the training images are
right (looked at every five steps), as in `optimizers.py`; at most 70. Both divide the
rotated gradient ``U_A^T V U_G``: K-FAC by ``(a + pi r) (g + r / pi)`` with eigenvalues a
and g and r the root of the damping, EKFAC with ``a g`` in it replaced by the average of
the squared rotated gradients of single examples ("corrected"), or by that average and
the damping alone ("corrected, plain damping"). Everything else is the same.

The network is written out, since the correction needs the inputs and gradients of every
layer where the taps of `tatnet.optim` give their moments.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import record
from problems import prepare_digits

import tatnet
from tatnet.training import data

BATCH, STEPS, BURN_IN, EVERY, DECAY, MOMENTUM, CONSTRAINT = 128, 70, 10, 10, 0.99, 0.9, 1e-3
KFAC, CORRECTED, PLAIN = "K-FAC", "corrected", "corrected, plain damping"
SWEEP = [
  (KFAC, 1e-4, 3e-3),
  (KFAC, 3e-4, 1e-2),
  (CORRECTED, 1e-4, 3e-3),
  (CORRECTED, 3e-4, 1e-2),
  (PLAIN, 1e-4, 3e-3),
  (PLAIN, 3e-4, 1e-2),
  (PLAIN, 3e-4, 3e-2),
  (PLAIN, 1e-3, 1e-1),
]


class Layers(NamedTuple):
  """An array for each of the first layer, the stack of inner layers, and the last one."""

  stem: Any
  inner: Any
  logits: Any


class State(NamedTuple):
  """Averages, their eigenvalues and -vectors, squared rotated gradients, and the last step."""

  a: Layers
  g: Layers
  eigen_a: Layers
  eigen_g: Layers
  squares: Layers
  step: Layers


def weights(network, inputs, seed: int) -> Layers:
  """Weights with the biases as their last rows, ``[layers, inputs + 1, outputs]``."""
  params, _ = network.initialize(jax.random.key(seed), inputs[:BATCH])
  stem, inner, logits = sorted(params, key=lambda name: ("logits" in name, "stack" in name))
  return Layers(
    *(
      jnp.concatenate([params[name]["w"], params[name]["b"][..., None, :]], -2).reshape(
        -1, params[name]["w"].shape[-2] + 1, params[name]["w"].shape[-1]
      )
      for name in (stem, inner, logits)
    )
  )


def forward(w: Layers, taps: Layers, x, activation):
  """Logits, and the inputs of all layers; gradients of the taps are those of the outputs."""

  def with_one(x):
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1)

  def layer(y, layer):
    w, tap = layer
    x = with_one(activation(y))
    return x @ w + tap, x

  first = with_one(x)
  y, inner = jax.lax.scan(layer, first @ w.stem[0] + taps.stem[0], (w.inner, taps.inner))
  logits, last = layer(y, (w.logits[0], taps.logits[0]))
  return logits, Layers(first[None], inner, last[None])


def eigen(moments):
  """Eigenvalues and -vectors, one matrix after the other."""
  return tuple(jax.lax.map(jnp.linalg.eigh, moments))


def make_step(kind: str, rate: float, damping: float, activation):
  """A compiled step of K-FAC, corrected or not."""
  root = damping**0.5

  def evaluate(w, x, labels, key):
    taps = jax.tree.map(lambda w: jnp.zeros((len(w), len(x), w.shape[-1])), w)
    logits, pull_back, inputs = jax.vjp(
      lambda w, taps: forward(w, taps, x, activation), w, taps, has_aux=True
    )

    def loss(logits, labels):
      return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    value, seed = jax.value_and_grad(loss)(logits, labels)
    sampled = jax.grad(loss)(logits, jax.random.categorical(key, logits)) * len(x)
    return value, pull_back(seed)[0], inputs, pull_back(sampled)[1]

  def divided(v, a, g, eigen_a, eigen_g, squares, count):
    """The preconditioned gradient, and the moved squares."""
    (values_a, u_a), (values_g, u_g) = eigen_a, eigen_g
    product = values_a[:, :, None] * values_g[:, None]
    new = jnp.einsum("lbi,lbj->lij", jnp.square(a @ u_a), jnp.square(g @ u_g)) / a.shape[1]
    squares = jnp.where(count <= BURN_IN, product, squares)
    squares += (1 - DECAY) * (new - squares)
    pi = jnp.sqrt(values_a.mean(-1) / values_g.mean(-1))[:, None]
    cross = root * ((values_a / pi)[:, :, None] + (values_g * pi)[:, None])
    curvature = {KFAC: product + cross, CORRECTED: squares + cross, PLAIN: squares}[kind]
    rotated = jnp.swapaxes(u_a, 1, 2) @ v @ u_g / (curvature + damping)
    return u_a @ rotated @ jnp.swapaxes(u_g, 1, 2), squares

  def step(w, state, x, labels, key, count):
    value, gradients, inputs, outputs = evaluate(w, x, labels, key)
    move = (1 - DECAY) / (1 - DECAY ** (count + 1.0))

    def moved(average, rows):
      return average + move * (jnp.einsum("lbi,lbj->lij", rows, rows) / len(x) - average)

    a, g = Layers(*map(moved, state.a, inputs)), Layers(*map(moved, state.g, outputs))
    is_turn = (count >= BURN_IN) & ((count - BURN_IN) % EVERY == 0)
    eigen_a, eigen_g = jax.lax.cond(
      is_turn,
      lambda: (Layers(*map(eigen, a)), Layers(*map(eigen, g))),
      lambda: (state.eigen_a, state.eigen_g),
    )
    results = [
      divided(*arguments, count)
      for arguments in zip(gradients, inputs, outputs, eigen_a, eigen_g, state.squares, strict=True)
    ]
    steps, squares = (Layers(*parts) for parts in zip(*results, strict=True))
    bound = CONSTRAINT / (rate**2 * sum(map(jnp.vdot, steps, gradients)))
    scale = jnp.where(count >= BURN_IN, jnp.sqrt(jnp.minimum(1, bound)), 0)
    last = jax.tree.map(lambda d, p: MOMENTUM * d - rate * scale * p, state.step, steps)
    w = jax.tree.map(jnp.add, w, last)
    return w, State(a, g, eigen_a, eigen_g, squares, last), value

  return jax.jit(step, donate_argnums=(0, 1))


def initial(w: Layers) -> State:
  """Nothing averaged yet."""

  def moments(axis):
    return jax.tree.map(lambda w: jnp.zeros((len(w), *w.shape[axis : axis + 1] * 2)), w)

  def eigen_of(moments):
    return Layers(*((jnp.ones(m.shape[:-1]), jnp.ones_like(m)) for m in moments))

  a, g = moments(1), moments(2)
  squares, step = (jax.tree.map(jnp.zeros_like, w) for _ in range(2))
  return State(a, g, eigen_of(a), eigen_of(g), squares, step)


def steps_needed(network, inputs, labels, setting, seed: int) -> tuple[int | None, list[float]]:
  """Steps until the training images are known, None if they never are; and seconds of each."""
  step = make_step(*setting, network.activation)
  w = weights(network, inputs, seed)
  state, key, order = initial(w), jax.random.key(seed), data.Shuffled(len(inputs), BATCH, seed)
  taps = jax.tree.map(lambda w: jnp.zeros((len(w), 1, 1)), w)
  right = jax.jit(
    lambda w: (forward(w, taps, inputs, network.activation)[0].argmax(-1) == labels).mean()
  )
  seconds = []
  for count in range(STEPS):
    take = order.indices(count)
    start = time.perf_counter()
    w, state, value = step(
      w, state, inputs[take], labels[take], jax.random.fold_in(key, count), float(count)
    )
    is_finite = np.isfinite(float(value))
    seconds.append(time.perf_counter() - start)
    if not is_finite:
      return None, seconds
    if count % 5 == 4 and right(w) >= 0.99:
      return count + 1, seconds
  return None, seconds


def main():
  """Runs the sweep, prints it, writes JSON."""
  parser = record.arguments("eigenvalues", __doc__)
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  args = parser.parse_args()
  images, labels = data.load_arrays("digits", "train")
  inputs, labels = prepare_digits(None, jnp.asarray(images)), jnp.asarray(labels)
  network = tatnet.nets.create("mlp", 10, width=256, depth=50)
  rows = []
  for setting in SWEEP:
    runs = [steps_needed(network, inputs, labels, setting, seed) for seed in args.seeds]
    reached = [steps for steps, _ in runs]
    milliseconds = 1e3 * np.mean([np.mean(seconds[1:]) for _, seconds in runs])
    rows.append({"setting": setting, "steps": reached, "milliseconds": milliseconds})
    print(
      f"{setting[0]:26} {setting[1]:g} {setting[2]:g} {reached} {milliseconds:.0f} ms", flush=True
    )
  record.write(args.out, rows)


if __name__ == "__main__":
  main()
