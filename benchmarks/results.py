"""Accuracy against depth: shaped networks and their baselines, by Adam.

    python benchmarks/results.py digits
    python benchmarks/results.py cifar10 --data-dir DATA
    python benchmarks/results.py identity --data-dir DATA

Networks and settings are those of problems.py: batch 64, Adam without schedule. The
learning rate of each method and depth is the one with the lowest mean training loss
over the last 20 steps of a short run with seed 100; it then runs with the other seeds.
Writes JSON, the table as Markdown, and where there are several depths
docs/figures/accuracy_by_depth_<problem>.png.
Of several runs with --depths or --methods, those in the same JSON file are kept.
"""

import dataclasses
import functools
import json
import math
import statistics
import time

import jax
import jax.numpy as jnp
import optax
import record
from problems import PROBLEMS, Problem

import tatnet
from tatnet.training import data

BATCH = 64
EVALUATED = 1000  # images at once


class Trainer:
  """One network, compiled once for all rates and seeds."""

  def __init__(self, problem: Problem, options: dict, train, test):
    self.network = tatnet.nets.create(num_classes=10, **options)
    self.prepare, self.train, self.test = problem.prepare, train, test
    self.optimizer = optax.scale_by_adam()

  @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
  def step(self, carry, rate, key, x, y):
    """One step of Adam."""
    params, state, moments = carry

    def loss(params):
      inputs = self.prepare(key, x)
      logits, new_state = self.network.apply(params, state, None, inputs, True)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new_state

    (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, moments = self.optimizer.update(gradients, moments)
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    return (params, state, moments), value

  @functools.partial(jax.jit, static_argnums=0)
  def right(self, params, state, x, y):
    """How many of a batch are."""
    logits, _ = self.network.apply(params, state, None, self.prepare(None, x), False)
    return (jnp.argmax(logits, -1) == y).sum()

  def accuracy(self, params, state) -> float:
    """On all test images."""
    x, y = self.test
    starts = range(0, len(x), EVALUATED)
    parts = [self.right(params, state, *(a[i : i + EVALUATED] for a in (x, y))) for i in starts]
    return sum(map(int, parts)) / len(x)

  def run(self, rate: float, seed: int, steps: int) -> dict:
    """Trains; the losses, and the accuracy on the test images."""
    init_key, key = jax.random.split(jax.random.key(seed))
    x, y = self.train
    params, state = self.network.initialize(init_key, self.prepare(None, x[:BATCH]))
    carry, losses = (params, state, self.optimizer.init(params)), []
    order = data.Shuffled(len(x), BATCH, seed)
    start = time.perf_counter()
    for number, step_key in enumerate(jax.random.split(key, steps)):
      taken = order.indices(number)
      carry, loss = self.step(carry, rate, step_key, x[taken], y[taken])
      losses.append(loss)
    losses = [float(loss) for loss in losses]
    return {
      "rate": rate,
      "seed": seed,
      "losses": losses,
      "accuracy": self.accuracy(*carry[:2]),  # that of guessing, if it diverged
      "seconds": time.perf_counter() - start,
    }


def last(run: dict) -> float:
  """Mean loss of the last 20 steps; infinite if it broke off."""
  mean = statistics.fmean(run["losses"][-20:])
  return mean if math.isfinite(mean) else math.inf


def measure(problem: Problem, method: str, depth: int, seeds, train, test) -> dict:
  """The best rate, and the runs with it."""
  trainer = Trainer(problem, problem.methods[method](depth), train, test)
  tuning = [trainer.run(rate, 100, problem.tuning_steps) for rate in problem.rates]
  rate = min(tuning, key=last)["rate"]
  runs = [trainer.run(rate, seed, problem.steps) for seed in seeds]
  return {"method": method, "depth": depth, "rate": rate, "tuning": tuning, "runs": runs}


def cell(row: dict) -> str:
  """Mean, smallest and largest accuracy in percent, and the rate."""
  percent = [100 * run["accuracy"] for run in row["runs"]]
  low, high = min(percent), max(percent)
  return f"{statistics.mean(percent):.1f} ({low:.1f} to {high:.1f}) at {row['rate']:g}"


def table(problem: Problem, rows: list[dict]) -> str:
  """As Markdown."""
  cells = {(row["method"], row["depth"]): cell(row) for row in rows}
  lines = ["| method | " + " | ".join(f"{depth} layers" for depth in problem.depths) + " |"]
  lines.append("|---" * (len(problem.depths) + 1) + "|")
  for method in problem.methods:
    found = [cells.get((method, depth), "not run") for depth in problem.depths]
    lines.append(f"| {method} | " + " | ".join(found) + " |")
  return "\n".join(lines)


def draw(problem: Problem, rows: list[dict], out) -> None:
  """Accuracy against depth; bars from the smallest to the largest seed."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 4.2), layout="constrained")
  axis = figure.subplots()
  styles = ("o-", "s-", "^-", "v--", "D--", "P-.", "X-.", "x:", "+:", "*:")
  for method, style in zip(problem.methods, styles, strict=False):
    found = sorted((r for r in rows if r["method"] == method), key=lambda row: row["depth"])
    percent = [[100 * run["accuracy"] for run in row["runs"]] for row in found]
    means = [statistics.mean(values) for values in percent]
    bars = [
      [mean - min(values) for mean, values in zip(means, percent, strict=True)],
      [max(values) - mean for mean, values in zip(means, percent, strict=True)],
    ]
    depths = [row["depth"] for row in found]
    axis.errorbar(depths, means, bars, fmt=style, capsize=3, label=method)
  axis.set(xscale="log", xlabel="layers", ylabel="test accuracy, %", title=problem.title)
  axis.set_ylim(0)
  axis.set_xticks(problem.depths, [str(depth) for depth in problem.depths], minor=False)
  axis.minorticks_off()
  axis.legend(fontsize=8, loc="lower left")
  figure.savefig(out, dpi=110)


def main():
  """Runs everything, prints the table, writes JSON and the figure."""
  parser = record.arguments("results", __doc__)
  parser.add_argument("problem", choices=PROBLEMS)
  parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
  parser.add_argument("--depths", nargs="*", type=int)
  parser.add_argument("--methods", nargs="*")
  parser.add_argument("--rates", nargs="*", type=float, help="learning rates to choose from")
  parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
  args = parser.parse_args()
  problem = PROBLEMS[args.problem]
  if args.rates:
    problem = dataclasses.replace(problem, rates=args.rates)
  out = args.out.with_stem(f"{args.out.stem}-{args.problem}")
  train, test = (data.load_arrays(problem.data, s, args.data_dir) for s in ("train", "test"))
  rows = json.loads(out.read_text())["rows"] if out.exists() else []
  for depth in args.depths or problem.depths:
    for method in args.methods or problem.methods:
      row = measure(problem, method, depth, args.seeds, train, test)
      rows = [r for r in rows if (r["method"], r["depth"]) != (method, depth)] + [row]
      seconds = sum(run["seconds"] for key in ("tuning", "runs") for run in row[key])
      print(f"{depth:4} {method:26} {cell(row)}   [{seconds:.0f} s]", flush=True)
      record.write(out, rows)  # what is done is kept if the rest is cut off
  print(table(problem, rows))
  if len(problem.depths) > 1:
    figures = record.FOLDER.parent / "docs" / "figures"
    draw(problem, rows, figures / f"accuracy_by_depth_{args.problem}.png")


if __name__ == "__main__":
  main()
