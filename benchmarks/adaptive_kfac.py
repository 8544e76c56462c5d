"""K-FAC that finds its own step sizes, without a number given, on problems of several kinds.

    python benchmarks/adaptive_kfac.py [problems] [--seeds 3] [--rivals] --data-dir DATA

Full loss of 2000 training images (of all, where there are fewer) every ten steps, the
burn-in of ten batches not counted. With --rivals also Adam at four rates and K-FAC at a
grid of fixed settings, momentum 0.9, inverses every five steps. Targets: the autoencoder
at most 28 at step 200, the tanh MLP at most 0.077 at step 150; nowhere a loss above the
first one after step 20.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import statistics
import time
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import record

import tatnet
from tatnet import optim
from tatnet.training import data

BURN_IN, EVERY = 10, 10


@dataclasses.dataclass(frozen=True)
class Task:
  """What is trained.

  Attributes:
    forward: the network.
    loss: of its outputs.
    inputs: all examples.
    targets: theirs.
    batch: examples a step.
    steps: of a run, without the burn-in.
    grid: rates and dampings of fixed K-FAC.
    norm_constraint: of fixed K-FAC.
    target: of the last loss; None for none.
  """

  forward: Callable
  loss: optim.Loss
  inputs: np.ndarray
  targets: np.ndarray
  batch: int
  steps: int
  grid: tuple[tuple[float, ...], tuple[float, ...]]
  norm_constraint: float | None = 1e-3
  target: float | None = None


def averaged(images: np.ndarray) -> np.ndarray:
  """Images at half their size."""
  n, height, width, channels = images.shape
  return images.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def standardised(images: np.ndarray) -> np.ndarray:
  """Of mean 0 and variance 1 in every channel, as floats."""
  axes = tuple(range(images.ndim - 1))
  return ((images - images.mean(axes)) / images.std(axes)).astype(np.float32)


def autoencoder(data_dir: str | None) -> Task:
  """MNIST at 14x14 through a bottleneck of twelve units."""
  images, _ = data.load_arrays("mnist", "train[:10000]", data_dir)
  x = (averaged(images) / 255).reshape(len(images), -1).astype(np.float32)
  init = hk.initializers.VarianceScaling(1, "fan_avg", "uniform")

  def forward(x):
    for size in (128, 64, 32, 12, 32, 64, 128):
      x = jnp.tanh(hk.Linear(size, w_init=init)(x))
    return hk.Linear(196, w_init=init)(x)

  grid = ((0.01, 0.03, 0.1), (0.1, 1.0, 10.0))
  return Task(forward, optim.SigmoidCrossEntropy(), x, x, 500, 200, grid, None, 28.0)


def tanh_mlp(data_dir: str | None) -> Task:
  """MNIST at 14x14 by twenty layers, not shaped."""
  images, labels = data.load_arrays("mnist", "train[:10000]", data_dir)
  x = standardised(averaged(images)).reshape(len(images), -1)

  def forward(x):
    for _ in range(19):
      x = jnp.tanh(hk.Linear(64, w_init=hk.initializers.Orthogonal())(x))
    return hk.Linear(10)(x)

  grid = ((1e-3, 3e-3, 1e-2), (0.01, 0.03, 0.1))
  return Task(forward, optim.SoftmaxCrossEntropy(), x, labels, 256, 150, grid, target=0.077)


def regression(data_dir: str | None) -> Task:
  """A smooth function of eight numbers by thirty shaped tanh layers."""
  del data_dir
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2000, 8)).astype(np.float32)
  y = np.stack([np.sin(2 * x[:, 0]) * x[:, 1], np.cos(x[:, 2] + x[:, 3])], axis=1)
  activation = tatnet.transform_activation("tanh", tatnet.chain(30), tatnet.TAT())

  def forward(x):
    for _ in range(30):
      x = activation(hk.Linear(48, w_init=tatnet.ScaledUniformOrthogonal())(x))
    return hk.Linear(2)(x)

  grid = ((1e-4, 1e-3, 1e-2), (1e-3, 1e-2, 0.1))
  return Task(forward, optim.SquaredError(), x, y, 128, 150, grid)


def textures(data_dir: str | None) -> Task:
  """Three classes of noise by a shaped convnet of thirty layers, batches of 32."""
  del data_dir
  rng = np.random.default_rng(0)
  y = rng.integers(0, 3, 450)
  x = rng.normal(size=(3, 16, 16, 3))[y] * 0.7 + rng.normal(size=(450, 16, 16, 3))

  def forward(images, activation):
    init = tatnet.ScaledUniformOrthogonal()
    x = tatnet.per_location_normalize(images)
    for i in range(30):
      conv = hk.Conv2D(24 if i < 15 else 48, 3, stride=2 if i == 15 else 1, w_init=init)
      x = activation(conv(x))
    return hk.Linear(3, w_init=init)(x.mean((1, 2)))

  shape = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
  topology = tatnet.trace(forward, shape)
  activation = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.8))
  grid = ((3e-5, 1e-4, 1e-3), (1e-3, 3e-3, 1e-2))
  return Task(
    lambda images: forward(images, activation),
    optim.SoftmaxCrossEntropy(),
    x.astype(np.float32),
    y,
    32,
    45,
    grid,
  )


TASKS = {task.__name__: task for task in (autoencoder, tanh_mlp, regression, textures)}


@dataclasses.dataclass
class Run:
  """An optimiser, and what came of it: full losses at steps 0, 10, ... and seconds of a step."""

  task: str
  optimizer: str
  seed: int
  losses: list[float]
  seconds: float


def optimizers(task: Task, with_rivals: bool):
  """Names, the transforms, and whether they take factors."""
  yield "adaptive K-FAC", tatnet.adaptive_kfac(), True
  if with_rivals:
    for rate in (3e-4, 1e-3, 3e-3, 1e-2):
      yield f"Adam {rate:g}", optax.adam(rate), False
    for rate, damping in itertools.product(*task.grid):
      fixed = tatnet.kfac(
        rate,
        damping=damping,
        decay=0.95,
        inverse_every=5,
        norm_constraint=task.norm_constraint,
        burn_in=BURN_IN,
      )
      yield f"K-FAC {rate:g} / {damping:g}", fixed, True


def trained(name: str, task: Task, label: str, optimizer, takes_factors: bool, seeds: int):
  """A run from each seed, with one compiled step for all of them."""
  network = hk.without_apply_rng(hk.transform(task.forward))
  inputs, targets = jnp.asarray(task.inputs), jnp.asarray(task.targets)
  evaluate = tatnet.value_grad_and_factors(network, task.loss)
  optimizer = optax.with_extra_args_support(optimizer)

  @jax.jit
  def full(params, x, y):
    return task.loss.per_example(network.apply(params, x), y).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, x, y, key):
    result = evaluate(params, x, y, key=key, refresh=takes_factors)
    extra = {"factors": result.factors, "model": result.model} if takes_factors else {}
    updates, state = optimizer.update(result.gradients, state, params, **extra)
    return optax.apply_updates(params, updates), state

  burn_in = BURN_IN if takes_factors else 0
  for seed in range(seeds):
    params = network.init(jax.random.key(seed), inputs[: task.batch])
    state, order = optimizer.init(params), data.Shuffled(len(inputs), task.batch, seed)
    losses, seconds = [float(full(params, inputs[:2000], targets[:2000]))], []
    for number in range(task.steps + burn_in):
      take = order.indices(number)
      start = time.perf_counter()
      key = jax.random.fold_in(jax.random.key(seed), number)
      params, state = jax.block_until_ready(step(params, state, inputs[take], targets[take], key))
      seconds.append(time.perf_counter() - start)
      done = number + 1 - burn_in
      if done > 0 and (done % EVERY == 0 or done == task.steps):
        losses.append(float(full(params, inputs[:2000], targets[:2000])))
    run = Run(name, label, seed, losses, statistics.median(seconds[1:]))
    print(
      f"{name:12} {label:18} seed {seed}: loss {losses[0]:.4g}, {losses[len(losses) // 2]:.4g}"
      f" halfway, {losses[-1]:.4g} at the end, {1e3 * run.seconds:.0f} ms a step",
      flush=True,
    )
    yield run


def judged(name: str, task: Task, runs: list[Run]) -> list[dict]:
  """What is asked of the adaptive mode."""
  own = [run for run in runs if run.task == name and run.optimizer == "adaptive K-FAC"]
  verdicts = [
    record.verdict(
      f"{name}: highest loss after step 20, over the first",
      max(max(run.losses[2:]) / run.losses[0] for run in own),
      1.0,
    )
  ]
  if task.target is not None:
    worst = max(run.losses[-1] for run in own)
    verdicts.append(record.verdict(f"{name}: last loss, worst seed", worst, task.target))
  return verdicts


def main():
  """Trains, prints, judges and writes JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all if not given")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--rivals", action="store_true", help="Adam and fixed K-FAC too")
  parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
  folder = record.FOLDER / "results"
  parser.add_argument("--out", type=pathlib.Path, default=folder / "adaptive_kfac.json")
  args = parser.parse_args()
  runs: list[Run] = []
  verdicts: list[dict] = []
  for name in args.tasks or TASKS:
    task = TASKS[name](args.data_dir)
    for label, optimizer, takes_factors in optimizers(task, args.rivals):
      runs += trained(name, task, label, optimizer, takes_factors, args.seeds)
    verdicts += judged(name, task, runs)
  record.write(args.out, [dataclasses.asdict(run) for run in runs], verdicts, seeds=args.seeds)


if __name__ == "__main__":
  main()
