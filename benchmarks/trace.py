"""Time and memory of reading a topology from a model.

    python benchmarks/trace.py

Each model is traced in a fresh process, at batch 256 and 224x224 where it has
images. Peak memory is that above importing the library. Budgets: 5 s for the
152-layer ResNet, and less memory than one layer's activations would take.
"""

import statistics

import record

BUDGETS = {"resnet152": 5.0}
MODELS = {
  "resnet50 (Haiku's, with its findings)": (
    "lambda x: hk.nets.ResNet50(1000)(x, is_training=True)",
    "IMAGES",
  ),
  "resnet152": ("resnet152", "IMAGES"),
  "mlp, 1000 stacked layers": (
    "lambda x, activation: hk.experimental.layer_stack(1000)("
    "lambda y: activation(hk.Linear(256)(y)))(hk.Linear(256)(x))",
    "(256, 64)",
  ),
  "mlp, 1000 unrolled layers": (
    "lambda x, activation: hk.nets.MLP([256] * 1001, activation=activation)(x)",
    "(256, 64)",
  ),
}

CHILD = """
import json, resource, sys, time, warnings
import haiku as hk, jax, jax.numpy as jnp, tatnet
warnings.simplefilter("ignore")
IMAGES = (256, 224, 224, 3)
def conv(channels, size, stride=1):
  return hk.Conv2D(channels, size, stride=stride)
def resnet152(x, activation):
  x = hk.max_pool(conv(64, 7, 2)(x), 3, 2, "SAME")
  for stage, (blocks, channels) in enumerate(zip((3, 8, 36, 3), (256, 512, 1024, 2048))):
    for block in range(blocks):
      stride = 2 if stage and not block else 1
      y = activation(x)
      shortcut = x if block else conv(channels, 1, stride)(y)
      y = activation(conv(channels // 4, 1)(y))
      y = activation(conv(channels // 4, 3, stride)(y))
      x = 0.6 * shortcut + 0.8 * conv(channels, 1)(y)
  return hk.Linear(1000)(activation(x).mean((1, 2)))
model, shape = eval(sys.argv[1]), eval(sys.argv[2])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
try:
  found = f"{tatnet.trace(model, jax.ShapeDtypeStruct(shape, jnp.float32)).num_nonlinear} layers"
except tatnet.TopologyError as error:
  found = f"{len(error.findings)} findings"
print(json.dumps({"seconds": time.perf_counter() - start, "memory_mb": peak() - before, "found": found}))
"""


def main():
  """Measures, prints a table, writes JSON."""
  parser = record.arguments("trace", __doc__)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--quick", action="store_true", help="once each")
  args = parser.parse_args()
  repeats = 1 if args.quick else args.repeats
  verdicts = []
  rows = []
  print(f"{'model':40} {'median':>8} {'largest':>8} {'memory':>8}  result")
  for name, (model, shape) in MODELS.items():
    runs = [record.in_fresh_process(CHILD, model, shape) for _ in range(repeats)]
    seconds = [run["seconds"] for run in runs]
    memory = max(run["memory_mb"] for run in runs)
    rows.append({"model": name, "seconds": seconds, "memory_mb": memory, "found": runs[0]["found"]})
    print(
      f"{name:40} {statistics.median(seconds):6.2f} s {max(seconds):6.2f} s {memory:5.0f} MB "
      f" {runs[0]['found']}"
    )
    if name in BUDGETS:
      verdicts.append(record.verdict(f"trace of {name}, s", max(seconds), BUDGETS[name]))
  record.write(args.out, rows, verdicts)


if __name__ == "__main__":
  main()
