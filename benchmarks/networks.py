"""Networks: initialisation, tracing, compilation, train steps and their memory.

    python benchmarks/networks.py [--quick] [--only mlp mlp1000]

Each pair is a network without shortcuts and normalisation, shaped by TAT, and the
same architecture with batch normalisation and shortcuts. Both are built in one
process and their steps alternate, so that the ratio does not depend on what else
the machine does. Initialisation is jitted, in a fresh process, compilation
included. Memory is the compiler's own account of a train step. Budgets: ResNet-50
at 224x224 and batch 8 takes at most 0.95 of the time and of the memory of its
baseline, and initialises in under 3 s; the first train step of an MLP of 1000 layers
of 256 units, compilation included, takes at most 10 s.
"""

import functools
import statistics
import time

import record

PAIRS = {
  "resnet50": ("resnet50-bn", (8, 224, 224, 3), 1000),
  "cifar_resnet56": ("cifar_resnet56-bn", (64, 32, 32, 3), 10),
  "preact_resnet18": ("preact_resnet18-bn", (32, 32, 32, 3), 10),
  "identity_resnet56": ("identity_resnet56-bn", (16, 32, 32, 3), 10),
  "mlp": ("mlp-bn", (128, 784), 10),
}
QUICK = ("cifar_resnet56", "mlp")
SETTINGS = {"mlp": {"width": 256, "depth": 50}}
# Hardt & Ma's own configuration has shortcuts; here it is measured without.
SHAPED = {"identity_resnet56": {"shortcut_weight": 0.0, "activation": "leaky_relu"}}
BUDGETS = {"resnet50": {"time": 0.95, "memory": 0.95, "init": 3.0}}
FIRST_STEP_BUDGET = 10.0


def build(name: str, **options):
  """The network of that name, and its input's shape."""
  import tatnet

  architecture = name.partition("-")[0]
  _, shape, classes = PAIRS[architecture]
  settings = SETTINGS.get(architecture, {}) | SHAPED.get(name, {}) | options
  return tatnet.nets.create(name, classes, **settings), shape


def init_seconds(name: str) -> float:
  """Jitted initialisation in this process, compilation included."""
  import jax
  import jax.numpy as jnp

  network, shape = build(name)
  jax.block_until_ready(jnp.zeros(1))  # the backend has started
  start = time.perf_counter()
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  jax.block_until_ready(network.initialize(jax.random.key(0), images))
  return time.perf_counter() - start


def first_step(depth: int) -> dict:
  """Initialisation and first step of a deep MLP in this process, compilation included."""
  import jax
  import jax.numpy as jnp

  jax.block_until_ready(jnp.zeros(1))  # the backend has started
  start = time.perf_counter()
  step = Step("mlp", depth=depth)
  return {
    "depth": depth,
    "init_s": step.init_seconds,
    "first_step_s": time.perf_counter() - start - step.init_seconds,
  }


def fresh(expression: str) -> float | dict:
  """One of this file's measurements, in a fresh process."""
  return record.in_fresh_process(f"import json, networks; print(json.dumps(networks.{expression}))")


def trace_seconds(name: str) -> float:
  """Time to read the topology from the network."""
  import warnings

  import jax
  import jax.numpy as jnp

  import tatnet

  network, shape = build(name)
  start = time.perf_counter()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", tatnet.TopologyWarning)
    topology = tatnet.trace(network.forward, jax.ShapeDtypeStruct(shape, jnp.float32))
  assert topology == network.topology
  return time.perf_counter() - start


class Step:
  """A compiled train step of plain SGD, and its arguments."""

  def __init__(self, name: str, **options):
    import jax
    import optax

    network, shape = build(name, **options)
    classes = PAIRS[name.partition("-")[0]][2]
    key = jax.random.key(0)
    images = jax.random.normal(key, shape)
    labels = jax.random.randint(key, shape[:1], 0, classes)
    start = time.perf_counter()
    params, state = jax.block_until_ready(network.initialize(key, images))
    self.init_seconds = time.perf_counter() - start

    def loss(params, state):
      logits, state = network.apply(params, state, key, images, True)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
      (_, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state)
      return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), state

    start = time.perf_counter()
    self.compiled = step.lower(params, state).compile()
    self.compile_seconds = time.perf_counter() - start
    memory = self.compiled.memory_analysis()
    self.megabytes = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**20
    self.arguments = (params, state)
    self.weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    self()

  def __call__(self) -> float:
    """Seconds of one step."""
    import jax

    start = time.perf_counter()
    self.arguments = jax.block_until_ready(self.compiled(*self.arguments))
    return time.perf_counter() - start


def measure_pair(name: str, repeats: int) -> dict:
  """Both networks of a pair, steps alternating."""
  baseline = PAIRS[name][0]
  steps = {key: Step(key) for key in (name, baseline)}
  seconds = {key: [] for key in steps}
  for _ in range(repeats):
    for key, step in steps.items():
      seconds[key].append(step())
  ratios = [a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)]
  return {
    "name": name,
    "weights": steps[name].weights,
    "init_s": [fresh(f"init_seconds({name!r})") for _ in range(3)],
    "trace_s": fresh(f"trace_seconds({name!r})"),
    "compile_s": {key: step.compile_seconds for key, step in steps.items()},
    "step_s": seconds,
    "megabytes": {key: step.megabytes for key, step in steps.items()},
    "time_ratio": statistics.median(ratios),
    "time_ratio_spread": [min(ratios), max(ratios)],
    "memory_ratio": steps[name].megabytes / steps[baseline].megabytes,
  }


def main():
  """Measures, prints a table, writes JSON."""
  parser = record.arguments("networks", __doc__)
  parser.add_argument("--repeats", type=int, default=9, help="alternating steps of each network")
  parser.add_argument("--quick", action="store_true", help="only the networks that take seconds")
  parser.add_argument("--only", nargs="*", choices=[*PAIRS, "mlp1000"])
  args = parser.parse_args()
  chosen = args.only or [*(QUICK if args.quick else PAIRS), "mlp1000"]
  rows, verdicts = [], []
  print(
    f"{'network':18} {'init':>7} {'trace':>7} {'compile':>8} {'step':>9} {'memory':>9}   of baseline"
  )
  for name in PAIRS:
    if name in chosen:
      rows.append(measure_pair(name, args.repeats))
      report(rows[-1])
      verdicts += judged(rows[-1])
  if "mlp1000" in chosen:
    runs = [fresh("first_step(1000)") for _ in range(3)]
    seconds = [run["first_step_s"] for run in runs]
    rows.append({"name": "mlp1000", "runs": runs})
    print(
      f"mlp of 1000 layers: init {record.median_and_spread([run['init_s'] for run in runs])} s,"
      f" first step {record.median_and_spread(seconds)} s"
    )
    verdicts.append(record.verdict("mlp1000, first step, s", max(seconds), FIRST_STEP_BUDGET))
  record.write(args.out, rows, verdicts)


def report(row: dict) -> None:
  """One line of the table."""
  name, (low, high) = row["name"], row["time_ratio_spread"]
  print(
    f"{name:18} {statistics.median(row['init_s']):5.2f} s {row['trace_s']:5.2f} s"
    f" {row['compile_s'][name]:6.1f} s {statistics.median(row['step_s'][name]):7.3f} s"
    f" {row['megabytes'][name]:6.0f} MB   time {row['time_ratio']:.2f} ({low:.2f} to {high:.2f}),"
    f" memory {row['memory_ratio']:.2f}"
  )


def judged(row: dict) -> list[dict]:
  """The verdicts on a pair."""
  measured = {
    "time": row["time_ratio"],
    "memory": row["memory_ratio"],
    "init": statistics.median(row["init_s"]),
  }
  budgets = BUDGETS.get(row["name"], {})
  return [
    record.verdict(f"{row['name']}, {key}", measured[key], value) for key, value in budgets.items()
  ]


if __name__ == "__main__":
  main()
