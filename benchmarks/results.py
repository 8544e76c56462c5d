"""Accuracy against depth on digits: shaped networks and their baselines, by Adam.

    python benchmarks/results.py

MLPs of 192 units and 10 to 200 hidden layers, batch 64, 200 steps of Adam without
schedule. The learning rate of each method and depth is the one of RATES with the lowest
mean training loss over steps 41 to 60 with seed 100; it then runs with seeds 0, 1 and 2.
Data: scikit-learn's digits, 1437 training and 360 test images, per-location
normalised. Writes JSON, the table as Markdown, and docs/figures/accuracy_by_depth.png.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import optax
import record

import tatnet
from tatnet.training import data

DEPTHS = (10, 30, 100, 200)
RATES = (1e-4, 3e-4, 1e-3)
SEEDS = (0, 1, 2)
WIDTH, BATCH, STEPS, TUNING_STEPS = 192, 64, 200, 60

orthogonal = tatnet.ScaledUniformOrthogonal()
METHODS = {
  # Ten layers of ReLU reach 0.87, so that eta is 0.8 there.
  "TAT, leaky ReLU": lambda depth: {"method": tatnet.TAT(0.9 if depth > 12 else 0.8)},
  "TAT, tanh": lambda _: {"activation": "tanh", "method": tatnet.TAT()},
  "DKS, tanh": lambda _: {"activation": "tanh", "method": tatnet.DKS()},
  "EOC, ReLU (He)": lambda _: {"name": "mlp-eoc"},
  "tanh as it is": lambda _: {"activation": jnp.tanh, "w_init": orthogonal},
  "batch norm and shortcuts": lambda _: {"name": "mlp-bn"},
}


def digits(split: str):
  """Inputs ``[n, 65]`` with q = 1, and labels."""
  images, labels = data.load_arrays("digits", split)
  statistics = data.STATISTICS["digits"]
  x = data.normalize(images, statistics.mean, statistics.std).reshape(len(images), -1)
  return tatnet.per_location_normalize(x), jnp.asarray(labels)


class Trainer:
  """One network, compiled once for all rates and seeds."""

  def __init__(self, method: str, depth: int):
    options = METHODS[method](depth)
    name = options.pop("name", "mlp")
    self.network = tatnet.nets.create(name, 10, width=WIDTH, depth=depth, **options)
    self.init = jax.jit(self.network.init)
    self.train, self.test = digits("train"), digits("test")
    self.optimizer = optax.scale_by_adam()

  @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
  def step(self, carry, rate, key):
    params, state, moments = carry
    chosen = jax.random.choice(key, len(self.train[0]), [BATCH], replace=False)
    x, y = (array[chosen] for array in self.train)

    def loss(params):
      logits, new_state = self.network.apply(params, state, None, x, True)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new_state

    (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, moments = self.optimizer.update(gradients, moments)
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    return (params, state, moments), value

  @functools.partial(jax.jit, static_argnums=0)
  def accuracy(self, params, state):
    logits, _ = self.network.apply(params, state, None, self.test[0], False)
    return (jnp.argmax(logits, -1) == self.test[1]).mean()

  def run(self, rate: float, seed: int, steps: int) -> dict:
    """Trains; the mean loss of the last 20 steps and the accuracy on the test images."""
    init_key, key = jax.random.split(jax.random.key(seed))
    params, state = self.init(init_key, self.train[0][:BATCH])
    carry, losses = (params, state, self.optimizer.init(params)), []
    start = time.perf_counter()
    for step_key in jax.random.split(key, steps):
      carry, loss = self.step(carry, rate, step_key)
      losses.append(loss)
    losses = jax.device_get(losses)
    return {
      "rate": rate,
      "seed": seed,
      "loss": float(sum(losses[-20:]) / 20),
      "accuracy": float(self.accuracy(*carry[:2])),
      "seconds": time.perf_counter() - start,
    }


def measure(method: str, depth: int) -> dict:
  """The best rate, and the runs with it."""
  trainer = Trainer(method, depth)
  tuning = [trainer.run(rate, 100, TUNING_STEPS) for rate in RATES]
  best = min(tuning, key=lambda run: run["loss"] if run["loss"] == run["loss"] else float("inf"))
  runs = [trainer.run(best["rate"], seed, STEPS) for seed in SEEDS]
  return {"method": method, "depth": depth, "rate": best["rate"], "tuning": tuning, "runs": runs}


def cell(row: dict) -> str:
  """Mean, smallest and largest accuracy in percent, and the rate."""
  percent = [100 * run["accuracy"] for run in row["runs"]]
  low, high = min(percent), max(percent)
  return f"{statistics.mean(percent):.1f} ({low:.1f} to {high:.1f}) at {row['rate']:g}"


def draw(rows: list[dict], out) -> None:
  """Accuracy against depth; bars from the smallest to the largest seed."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axis = plt.subplots(figsize=(6, 4))
  styles = ("o-", "s-", "^-", "v--", "D--", "x:")
  for method, style in zip(METHODS, styles, strict=True):
    found = [row for row in rows if row["method"] == method]
    percent = [[100 * run["accuracy"] for run in row["runs"]] for row in found]
    means = [statistics.mean(values) for values in percent]
    bars = [
      [mean - min(values) for mean, values in zip(means, percent, strict=True)],
      [max(values) - mean for mean, values in zip(means, percent, strict=True)],
    ]
    depths = [row["depth"] for row in found]
    axis.errorbar(depths, means, bars, fmt=style, capsize=3, label=method)
  axis.set(xscale="log", xlabel="hidden layers", ylabel="test accuracy, %", ylim=(0, 102))
  axis.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS], minor=False)
  axis.minorticks_off()
  axis.legend(fontsize=8, loc="lower left")
  figure.tight_layout()
  figure.savefig(out, dpi=110)


def main():
  """Runs everything, prints the table, writes JSON and the figure."""
  parser = record.arguments("results", __doc__)
  parser.add_argument("--depths", nargs="*", type=int, default=DEPTHS)
  parser.add_argument("--methods", nargs="*", default=list(METHODS))
  args = parser.parse_args()
  rows = []
  for depth in args.depths:
    for method in args.methods:
      rows.append(measure(method, depth))
      seconds = sum(run["seconds"] for key in ("tuning", "runs") for run in rows[-1][key])
      print(f"{depth:4} {method:26} {cell(rows[-1])}   [{seconds:.0f} s]", flush=True)
    record.write(args.out, rows)  # what is done is kept if the rest is cut off
  print("| method | " + " | ".join(f"{depth} layers" for depth in args.depths) + " |")
  print("|---" * (len(args.depths) + 1) + "|")
  for method in args.methods:
    cells = [cell(row) for row in rows if row["method"] == method]
    print(f"| {method} | " + " | ".join(cells) + " |")
  if list(args.methods) == list(METHODS):
    draw(rows, record.FOLDER.parent / "docs" / "figures" / "accuracy_by_depth.png")


if __name__ == "__main__":
  main()
