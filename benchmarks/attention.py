"""Attention: schedules, the layer and trace against their budgets; predicted kernels against networks.

    python benchmarks/attention.py [--seeds 20] [--quick]

Budgets: the schedule of 48 layers with all row scales and biases' vectors for 4096 tokens in
50 ms, the layer's train step within 1.05 of plain `jax.nn.dot_product_attention`, trace of a
transformer of 48 layers and 4096 tokens in 5 s. The table compares the recursion over tokens with
networks of width 512 that run, and has what becomes of exponential kernels that are planned
together with nonlinear layers, where negative entries are set to 0.
"""

import functools
import math
import statistics
import time

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import record

import tatnet
from tatnet import attention, nets

DEPTH, WIDTH, TOKENS, LONG = 12, 512, 16, 64
TRACE = """
import json, resource, time
import jax, jax.numpy as jnp, tatnet
from tatnet.nets import Transformer
topology = Transformer.topology(48, step=0.005)
act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.5))
schedule = tatnet.attention_schedule(topology, act)
def forward(ids, activation):
  return Transformer(
    48, 1024, 16, 32000, context=4096, activation=activation, attention=schedule
  )(ids)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
found = tatnet.trace(forward, jax.ShapeDtypeStruct((8, 4096), jnp.int32))
assert found == topology
print(json.dumps({"seconds": time.perf_counter() - start, "memory_mb": peak() - before}))
"""


def joint(step=0.05, nonlinear=2):
  return tatnet.sequence(*[tatnet.mixing(step), tatnet.chain(nonlinear)] * DEPTH)


def schemes(eta: float) -> dict:
  """Matrices of the attention layers and the activation behind them, by name."""
  found = {}
  together = tatnet.transform_activation("leaky_relu", joint(), tatnet.TAT(eta))
  smooth = tatnet.transform_activation("tanh", joint(), tatnet.DKS(1.5))
  alone = tatnet.transform_activation("leaky_relu", tatnet.chain(2 * DEPTH), tatnet.TAT(eta))
  for causal in (True, False):
    order = "causal" if causal else "both ways"
    length = None if causal else TOKENS
    schedules = {
      "joint U, TReLU": (tatnet.attention_schedule(joint(), together, causal=causal), together),
      "joint U, tanh by DKS": (tatnet.attention_schedule(joint(), smooth, causal=causal), smooth),
      "published E": (attention.exponential_schedule(DEPTH, causal=causal, tokens=length), alone),
      "published U": (attention.uniform_schedule(DEPTH, causal=causal), alone),
    }
    for name, (schedule, act) in schedules.items():
      matrices = [schedule.as_matrix(n, TOKENS) for n in range(DEPTH)]
      found[f"{name}, {order}"] = matrices, act
    found[f"joint E, clipped, {order}"] = clipped(alone, causal)[0], alone
  found["identity (shaped, Value-SkipInit)"] = [np.eye(TOKENS)] * DEPTH, alone
  mean = np.tril(np.ones([TOKENS, TOKENS])) / np.arange(1, TOKENS + 1)[:, None]
  found["softmax of zero logits, causal"] = [mean] * DEPTH, alone
  return found


def clipped(act, causal: bool, tokens: int = TOKENS) -> tuple[list[np.ndarray], float, np.ndarray]:
  """Exponential kernels planned for what arrives, without their negative entries, q kept at 1.

  Returns:
    The matrices; the smallest entry that was set to 0; the kernel that was aimed at.
  """
  schedule = attention.exponential_schedule(DEPTH, causal=causal, tokens=None if causal else tokens)
  kernel, matrices, smallest = np.eye(tokens), [], 0.0
  for layer in schedule.layers:
    target = layer.as_kernel(tokens)
    matrix = np.linalg.solve(root(kernel, causal).T, root(target, causal).T).T
    smallest = min(smallest, float(matrix.min()))
    matrix = np.maximum(matrix, 0)
    matrix /= np.sqrt(np.diag(matrix @ kernel @ matrix.T))[:, None]
    matrices.append(matrix)
    kernel = attention.token_kernels(kernel, [matrix, act, act])[-1]
  return matrices, smallest, attention.token_kernels(target, [act, act])[-1]


def root(kernel: np.ndarray, causal: bool) -> np.ndarray:
  if causal:
    return np.linalg.cholesky(kernel)
  values, vectors = np.linalg.eigh(kernel)
  return (vectors * np.sqrt(values)) @ vectors.T


@functools.cache
def orthogonal() -> np.ndarray:
  q, r = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))
  return np.float32(q * np.sign(np.diag(r)))


def measured(matrices, activation, seed: int) -> np.ndarray:
  """The kernel of one network behind its last layer."""
  rng = np.random.default_rng(seed)

  def dense(x):  # orthogonal weights: places and signs of each layer, and a common turn
    signs = rng.choice(np.float32([-1, 1]), WIDTH)
    return (x[:, rng.permutation(WIDTH)] * signs) @ orthogonal()

  left, _, right = np.linalg.svd(rng.standard_normal((TOKENS, WIDTH)), full_matrices=False)
  x = math.sqrt(WIDTH) * (left @ right).astype(np.float32)
  for matrix in matrices:
    x = dense(matrix.astype(np.float32) @ dense(x))
    x = activation(dense(activation(dense(x))))
  return x @ x.T / WIDTH


def cosines_of(kernel: np.ndarray) -> np.ndarray:
  size = np.sqrt(np.diagonal(kernel, axis1=-2, axis2=-1))
  return kernel / (size[..., :, None] * size[..., None, :])


def kernels(eta: float, seeds: int) -> list[dict]:
  """Predicted against measured kernels behind the last layer."""
  rows, others = [], ~np.eye(TOKENS, dtype=bool)
  print(f"eta {eta}, {DEPTH} blocks, {TOKENS} tokens, width {WIDTH}, {seeds} networks")
  print(
    f"{'scheme':36} {'q predicted':>16} {'measured':>14} {'mean c':>8} {'measured':>9} {'error':>6}"
  )
  for name, (matrices, act) in schemes(eta).items():
    layers = [x for matrix in matrices for x in (matrix, act, act)]
    predicted = attention.token_kernels(np.eye(TOKENS), layers)[-1]
    call = jax.jit(act.__call__)
    run = np.stack(
      [measured(matrices, lambda x, call=call: np.asarray(call(x)), s) for s in range(seeds)]
    )
    q, expected = np.diagonal(run, axis1=1, axis2=2), np.diag(predicted)
    found, c = cosines_of(run).mean(0), cosines_of(predicted)
    row = {
      "scheme": name,
      "eta": eta,
      "q_predicted": [float(expected.min()), float(expected.max())],
      "q_ratio": float((q / expected).mean()),
      "q_spread": float((q / expected).mean(1).std()),
      "cosine_predicted": float(c[others].mean()),
      "cosine_measured": float(found[others].mean()),
      "largest_error": float(np.abs(found - c).max()),
    }
    rows.append(row)
    print(
      f"{name:36} {expected.min():7.3f}..{expected.max():7.3f} {row['q_ratio']:6.2f} +- {row['q_spread']:4.2f}"
      f" {row['cosine_predicted']:8.4f} {row['cosine_measured']:9.4f} {row['largest_error']:6.3f}"
    )
  return rows


def exponential_together(eta: float) -> list[dict]:
  """How far exponential kernels miss when they are planned together and clipped."""
  act = tatnet.transform_activation("leaky_relu", tatnet.chain(2 * DEPTH), tatnet.TAT(eta))
  rows = []
  for causal in (True, False):
    matrices, smallest, target = clipped(act, causal, LONG)
    layers = [x for matrix in matrices for x in (matrix, act, act)]
    kernel = attention.token_kernels(np.eye(LONG), layers)[-1]
    rows.append(
      {
        "eta": eta,
        "causal": causal,
        "smallest_entry": smallest,
        "largest_error": float(np.abs(kernel - target).max()),
        "farthest_pair": [float(kernel[-1, 0]), float(target[-1, 0])],
      }
    )
    print(
      f"joint E, eta {eta}, causal={causal}: entries down to {smallest:.3f}; clipped, q = 1, cosines off by up"
      f" to {rows[-1]['largest_error']:.3f}; first and last token {kernel[-1, 0]:.3f} for {target[-1, 0]:.3f}"
    )
  return rows


def schedule_seconds(repeats: int) -> list[float]:
  topology = tatnet.sequence(*[tatnet.mixing(0.005), tatnet.chain(2)] * 48)
  act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.5))
  found = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    schedule = tatnet.attention_schedule(topology, act)
    for n in range(48):
      schedule[n].vectors(4096)  # with the row scale, all that a bias is made of
    found.append(time.perf_counter() - start)
  return found[1:]


def layer_ratio(repeats: int) -> list[float]:
  """Train step of the planned layer over that of plain attention with the same weights."""
  x = jax.random.normal(jax.random.key(0), (8, 256, 256))
  layer = attention.UniformLayer(0.3, 0.33)

  def plain(x):
    q, k, v = (
      hk.Linear(256, with_bias=False, name=name)(x).reshape(8, 256, 4, 64)
      for name in ("query", "key", "value")
    )
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    return hk.Linear(256, with_bias=False, name="output")(y)

  steps = []
  for forward in (lambda x: nets.ShapedAttention(4, layer)(x), plain):
    model = hk.transform(forward)
    params = jax.jit(model.init)(jax.random.key(1), x)
    step = jax.jit(jax.grad(lambda p, model=model: jnp.mean(model.apply(p, None, x) ** 2)))
    jax.block_until_ready(step(params))
    steps.append(functools.partial(step, params))
  ratios = []
  for _ in range(repeats):
    times = []
    for step in steps:
      start = time.perf_counter()
      jax.block_until_ready(step())
      times.append(time.perf_counter() - start)
    ratios.append(times[0] / times[1])
  return ratios


def main():
  """Measures, prints tables, writes JSON."""
  parser = record.arguments("attention", __doc__)
  parser.add_argument("--seeds", type=int, default=20)
  parser.add_argument("--quick", action="store_true", help="four networks, one eta, few repeats")
  args = parser.parse_args()
  repeats = 5 if args.quick else 31
  seconds, ratios = schedule_seconds(repeats), layer_ratio(repeats)
  traced = [record.in_fresh_process(TRACE) for _ in range(1 if args.quick else 3)]
  verdicts = [
    record.verdict("schedule of 48 layers, 4096 tokens, ms", 1e3 * statistics.median(seconds), 50),
    record.verdict("layer over plain attention, train step", statistics.median(ratios), 1.05),
    record.verdict("trace of 48 layers, 4096 tokens, s", max(t["seconds"] for t in traced), 5.0),
    record.verdict("the same, memory, MB", max(t["memory_mb"] for t in traced), 500),
  ]
  etas = (0.9,) if args.quick else (0.5, 0.9)
  rows = [row for eta in etas for row in kernels(eta, 4 if args.quick else args.seeds)]
  missed = [row for eta in etas for row in exponential_together(eta)]
  record.write(
    args.out,
    rows,
    verdicts,
    exponential_together=missed,
    schedule=seconds,
    ratios=ratios,
    trace=traced,
  )


if __name__ == "__main__":
  main()
