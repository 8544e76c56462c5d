"""Effective learning rates of ResNet-56 with and without shortcuts, beside what the model predicts.

    python benchmarks/weight_dynamics.py --data-dir DATA

Version 1 of the ResNet for CIFAR with batch normalisation, as it is (Short) and without
the additions (NoShort), on CIFAR-10 images averaged down to 16x16. First, for several
seeds, one step at fractions of the critical learning rate: the factor by which the spread
falls, on the next batch, and what the model says. Then training by gradient descent, also
with the warm-up and with one effective learning rate for all layers. The model knows
the rates of the first step alone, and takes gradient norms at weights of norm 1 to be
constant. Parameters that count are found by `scale_invariant`.
"""

import functools
import pathlib
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import record
from matplotlib.figure import Figure
from problems import prepare_cifar10

import tatnet
from tatnet.diagnostics import dynamics
from tatnet.training import data

SHOWN = (0, 1, 2, 3, 5, 10, 20, 50, 99)
FRACTIONS = (0.03, 0.125, 0.25, 0.5, 1.0)


class Problem(NamedTuple):
  """An architecture with its compiled gradients."""

  network: tatnet.nets.Network
  params: Any
  network_state: Any
  mask: Any
  gradients: Any
  compile_seconds: float


def batches(args, steps: int):
  """Normalised images ``[batch, 16, 16, 3]`` and labels of every step."""
  images, labels = data.load_arrays("cifar10", "train[:20%]", args.data_dir)
  order = data.Shuffled(len(images), args.batch_size, seed=0)
  for step in range(steps):
    chosen = order.indices(step)
    yield np.asarray(prepare_cifar10(None, images[chosen])), labels[chosen]


def build(name: str, images, labels) -> Problem:
  """Initial parameters, which of them are scale invariant, and compiled gradients."""
  network = tatnet.nets.create(name, 10)
  params, network_state = network.initialize(jax.random.key(0), images)

  def outputs(params):
    return network.apply(params, network_state, None, images[:8], True)[0]

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def gradients(params, network_state, images, labels):
    logits, network_state = network.apply(params, network_state, None, images, True)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (network_state, (logits.argmax(-1) == labels).mean())

  mask = dynamics.scale_invariant(outputs, params)
  start = time.perf_counter()
  compiled = gradients.lower(params, network_state, images, labels).compile()
  return Problem(network, params, network_state, mask, compiled, time.perf_counter() - start)


def in_order(names) -> list[str]:
  """Names of layers from the input on: the stem, then blocks by their numbers."""

  def key(name):
    numbers = tuple(int(number) for number in re.findall(r"\d+", name))
    return "stem" not in name, numbers

  return sorted(names, key=key)


def train(problem: Problem, optimizer, stream) -> dict[str, Any]:
  """Rates, losses and accuracies of every step."""
  optimizer = optax.chain(dynamics.record_rates(problem.mask, len(stream)), optimizer)
  update = jax.jit(optimizer.update)
  params, network_state = problem.params, problem.network_state
  state = optimizer.init(params)
  losses, accuracies, seconds = [], [], []
  for images, labels in stream:
    start = time.perf_counter()
    (loss, (network_state, accuracy)), slopes = problem.gradients(
      params, network_state, images, labels
    )
    updates, state = update(slopes, state, params)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
    accuracies.append(float(accuracy))
    seconds.append(time.perf_counter() - start)
  log = dynamics.recorded_rates(state)
  return {
    "spread": log.spread.tolist(),
    "rates": np.column_stack([log.rates[name] for name in in_order(log.rates)]).tolist(),
    "losses": losses,
    "accuracies": accuracies,
    "seconds_per_step": float(np.median(seconds)),
  }


def predicted(run: dict[str, Any], learning_rate: float, warm_up: float) -> list[float]:
  """Spread at every step, from the rates of the first."""
  steps = max(len(run["spread"]) - 1, 1)
  return dynamics.predict(run["rates"][0], learning_rate, steps, warm_up=warm_up).spread.tolist()


def one_step(problem: Problem, seed: int, stream) -> dict[str, Any]:
  """The spread before and after a step at fractions of the critical rate."""
  params, network_state = problem.network.initialize(jax.random.key(seed), stream[0][0])

  def rates(params, batch):
    _, slopes = problem.gradients(params, network_state, *batch)
    return dynamics.effective_learning_rates(params, slopes, problem.mask), slopes

  before, slopes = rates(params, stream[0])
  found = {"before": float(before.spread), "critical": float(before.critical), "after": {}}
  for fraction in FRACTIONS:
    learning_rate = fraction * found["critical"]
    moved = jax.tree.map(lambda w, g, rate=learning_rate: w - rate * g, params, slopes)
    model = dynamics.predict(before, learning_rate, 1).spread[1]
    found["after"][fraction] = {
      "measured": float(rates(moved, stream[1])[0].spread),
      "model": float(model),
    }
  return found


def show_steps(steps: list[dict[str, Any]]) -> None:
  """The table of single steps, a row for each seed."""
  print("Spread before and after one step at a fraction of the critical rate, measured (model):")
  print(f"{'seed':>4} {'critical':>9} {'before':>8}" + "".join(f"{x:>18.3g}" for x in FRACTIONS))
  for seed, found in enumerate(steps):
    pairs = (found["after"][fraction] for fraction in FRACTIONS)
    cells = (f"{pair['measured']:.4g} ({pair['model']:.4g})" for pair in pairs)
    print(
      f"{seed:>4} {found['critical']:>9.3g} {found['before']:>8.4g}"
      + "".join(f"{cell:>18}" for cell in cells)
    )


def show(runs: dict[str, Any]) -> None:
  """Tables of the spread by step and of the loss."""
  steps = [step for step in SHOWN if step < len(next(iter(runs.values()))["spread"])]
  print(f"\n{'spread at step':<34}" + "".join(f"{step:>9}" for step in steps))
  for name, run in runs.items():
    for kind in ("spread", "predicted"):
      if kind in run:
        label = name if kind == "spread" else "  model"
        print(f"{label:<34}" + "".join(f"{run[kind][step]:>9.3g}" for step in steps))
  print(f"\n{'':<34}{'median spread':>14}{'first loss':>11}{'last 20':>9}{'accuracy':>9}")
  for name, run in runs.items():
    print(
      f"{name:<34}{np.median(run['spread'][-20:]):>14.3g}{run['losses'][0]:>11.3f}"
      f"{np.mean(run['losses'][-20:]):>9.3f}{np.mean(run['accuracies'][-20:]):>9.3f}"
    )


def plot(runs: dict[str, Any], path: pathlib.Path) -> None:
  """Spread by step, rates by layer at the start and at the end, and loss."""
  figure = Figure(figsize=(12, 4.2), layout="constrained")
  left, middle, right = figure.subplots(1, 3)
  for number, (name, run) in enumerate(runs.items()):
    color, steps = f"C{number}", np.arange(1, len(run["spread"]) + 1)
    left.loglog(steps, run["spread"], color=color, label=name, alpha=0.8)
    if "predicted" in run:
      left.loglog(steps, run["predicted"], ":", color=color)
    middle.semilogy(run["rates"][-1], color=color)
    smooth = np.convolve(run["losses"], np.ones(5) / 5, "valid")
    right.plot(steps[4:], smooth, color=color)
  for name, color in (("Short", "0.6"), ("NoShort", "k")):
    start = next(run["rates"][0] for key, run in runs.items() if key.startswith(f"{name},"))
    middle.semilogy(start, "--", color=color, label=f"{name}, at the start")
  left.set(xlabel="step", ylabel="spread of effective rates", title="measured; dots: the model")
  middle.set(xlabel="layer", ylabel="effective rate", title="after the last step")
  right.set(xlabel="step", ylabel="training loss", title="mean of five steps", ylim=(1.9, 3.1))
  middle.legend(fontsize=8)
  figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
  figure.savefig(path, dpi=80)


def main():
  """Runs, prints, writes."""
  parser = record.arguments("weight_dynamics", __doc__)
  parser.add_argument("--steps", type=int, default=100)
  parser.add_argument("--seeds", type=int, default=3, help="of the single steps")
  parser.add_argument("--batch-size", type=int, default=32)
  parser.add_argument("--depth", type=int, default=56, help="6n + 2")
  parser.add_argument(
    "--learning-rate", type=float, default=1.0, help="1: as 0.1 with momentum 0.9 in the long run"
  )
  parser.add_argument("--common-rate", type=float, default=0.02, help="of constrained training")
  parser.add_argument("--data-dir", type=pathlib.Path, help="the folder that holds cifar10/")
  args = parser.parse_args()
  stream, rate = list(batches(args, max(args.steps, 2))), args.learning_rate
  short, plain = (
    build(f"cifar_resnet{args.depth}-{kind}", *stream[0]) for kind in ("bn", "noshort")
  )
  print(f"ResNet-{args.depth}, batch {args.batch_size}, learning rate {rate}")
  steps = [one_step(plain, seed, stream) for seed in range(args.seeds)]
  show_steps(steps)

  mask, common = plain.mask, args.common_rate
  cases = {
    f"Short, {rate / 10:g}": (short, optax.sgd(rate / 10), (rate / 10, 0.0)),
    f"Short, {rate:g}": (short, optax.sgd(rate), (rate, 0.0)),
    f"NoShort, {rate / 10:g}": (plain, optax.sgd(rate / 10), (rate / 10, 0.0)),
    f"NoShort, {rate:g}": (plain, optax.sgd(rate), (rate, 0.0)),
    "NoShort, warm-up at 1/4": (plain, dynamics.warm_up(rate, mask), (rate, 0.25)),
    "NoShort, warm-up at 1": (plain, dynamics.warm_up(rate, mask, fraction=1.0), (rate, 1.0)),
    f"NoShort, all layers {common}": (
      plain,
      dynamics.constrain_rates(common, rate / 10, mask),
      None,
    ),
  }
  runs = {}
  for name, (problem, optimizer, model) in cases.items():
    runs[name] = train(problem, optimizer, stream[: args.steps])
    if model is not None:
      runs[name]["predicted"] = predicted(runs[name], *model)
  show(runs)
  options = {name: str(value) for name, value in vars(args).items()}
  seconds = {"Short": short.compile_seconds, "NoShort": plain.compile_seconds}
  rows = {"one_step": steps, "runs": runs}
  record.write(args.out, rows, options=options, compile_seconds=seconds)
  plot(runs, args.out.with_suffix(".png"))


if __name__ == "__main__":
  main()
