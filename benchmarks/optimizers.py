"""Progress of K-FAC, Adam, SGD and Muon on deep networks without shortcuts, over a sweep.

    python benchmarks/optimizers.py digits
    python benchmarks/optimizers.py cifar10 --data-dir DATA

digits: a TReLU MLP of 50 layers of 256, batch 128: steps until 99 % of the training
images are right (looked at every five steps), from three seeds. cifar10: a
TReLU convnet of 20 layers (16 to 64 channels) without shortcuts, batch 128, images
averaged to 16x16 so that the sweep takes minutes: mean loss of the last third of the
steps, and a figure of the best setting of each optimiser against steps and seconds.
With --only, one optimiser at a time; the figure is of what has been run.
K-FAC's burn-in counts as steps. Steps are timed one by one, compilation left out.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import record
from problems import prepare_cifar10, prepare_digits

import tatnet
from tatnet import training
from tatnet.training import data

SETTINGS = training.OptimizerSettings
OPTIMIZERS = ("kfac", "adam", "sgd", "muon")
DIGITS_SWEEP = {
  "kfac": [
    SETTINGS("kfac", 1e-4, damping=1e-3, inverse_every=10, schedule="constant"),
    SETTINGS("kfac", 1e-4, damping=3e-3, inverse_every=10, schedule="constant"),
    SETTINGS("kfac", 1e-4, damping=3e-3, inverse_every=10, factors_every=2, schedule="constant"),
    SETTINGS("kfac", 1e-4, damping=3e-3, inverse_every=10, factors_every=10, schedule="constant"),
    SETTINGS("kfac", 3e-4, damping=1e-2, inverse_every=10, schedule="constant"),
  ],
  "adam": [SETTINGS("adam", rate, schedule="constant") for rate in (1e-5, 3e-5, 1e-4, 3e-4)],
  "sgd": [SETTINGS("sgd", rate, schedule="constant") for rate in (3e-5, 1e-4, 3e-4, 1e-3)],
  "muon": [SETTINGS("muon", rate, schedule="constant") for rate in (3e-4, 1e-3, 3e-3)],
}
CIFAR_SWEEP = {
  "kfac": [
    SETTINGS("kfac", 1e-4, damping=1e-3, inverse_every=10, schedule="constant"),
    SETTINGS("kfac", 3e-4, damping=1e-2, inverse_every=10, schedule="constant"),
  ],
  "adam": [SETTINGS("adam", rate, schedule="constant") for rate in (1e-4, 3e-4, 1e-3, 3e-3)],
  "sgd": [SETTINGS("sgd", rate, schedule="constant") for rate in (1e-3, 3e-3, 1e-2, 3e-2)],
  "muon": [SETTINGS("muon", rate, schedule="constant") for rate in (1e-3, 3e-3, 1e-2)],
}


@dataclasses.dataclass
class Run:
  """A setting, and what came of it."""

  settings: training.OptimizerSettings
  seed: int
  sharing: str
  losses: list[float]
  seconds: list[float]
  reached: int | None = None

  @property
  def seconds_per_step(self) -> float:
    """Median over periods of ten steps, so that K-FAC's inversions count."""
    tens = [statistics.fmean(self.seconds[i : i + 10]) for i in range(1, len(self.seconds), 10)]
    return statistics.median(tens) if tens else math.nan


def train(network, prepare, arrays, settings, steps, seed, *, sharing="reduce", goal=None) -> Run:
  """Trains, until a share of the training images is right if a goal is given."""
  images, labels = arrays
  optimizer = training.make_optimizer(settings, steps + 1)
  shape = jax.eval_shape(prepare, jax.random.key(0), jnp.asarray(images[:128]))
  state = training.create_state(network, optimizer, jax.random.key(seed), shape)
  loss = tatnet.optim.SoftmaxCrossEntropy()
  options = {"sharing": sharing} if settings.name == "kfac" else {}
  step = training.make_train_step(network, loss, optimizer, prepare=prepare, **options)
  evaluate = training.make_evaluation(network, prepare=prepare)
  order = data.Shuffled(len(images), 128, seed)
  run = Run(settings, seed, sharing, [], [])
  whole = [{"image": images, "label": labels, "mask": np.ones(len(labels), bool)}]
  for number in range(steps):
    take = order.indices(number)
    start = time.perf_counter()
    batch = {"image": images[take], "label": labels[take]}
    state, metrics = step(state, batch, refresh=settings.factors_due(number))
    run.losses.append(float(metrics["loss"]))
    run.seconds.append(time.perf_counter() - start)
    if not math.isfinite(run.losses[-1]):
      break
    if goal is None or number % 5 != 4:
      continue
    if evaluate(state.params, state.network_state, whole).accuracy >= goal:
      run.reached = number + 1
      break
  return run


def digits(names: list[str], steps: int) -> list[Run]:
  """Steps until 99 % of the training images are right."""
  arrays = data.load_arrays("digits", "train")
  network = tatnet.nets.create("mlp", 10, width=256, depth=50)
  runs = []
  for name in names:
    for settings in DIGITS_SWEEP[name]:
      for seed in (0, 1, 2):
        run = train(network, prepare_digits, arrays, settings, steps, seed, goal=0.99)
        runs.append(run)
        reached = f"{run.reached} steps" if run.reached else f"not in {steps} steps"
        print(
          f"{name:5} rate {settings.learning_rate:<7g} damping {settings.damping:<6g}"
          f" factors every {settings.factors_every:2} seed {seed}:"
          f" {reached}, last loss {run.losses[-1]:.2g},"
          f" {1e3 * run.seconds_per_step:.0f} ms a step"
        )
  return runs


def cifar10(names: list[str], steps: int, sharing: str, data_dir: str | None) -> list[Run]:
  """Mean loss of the last third of the steps."""
  arrays = data.load_arrays("cifar10", "train", data_dir)
  network = tatnet.nets.create("cifar_resnet20", 10, method=tatnet.TAT(0.8))
  runs = []
  for name in names:
    for settings in CIFAR_SWEEP[name]:
      run = train(network, prepare_cifar10, arrays, settings, steps, 0, sharing=sharing)
      runs.append(run)
      print(
        f"{name:5} rate {settings.learning_rate:<7g} damping {settings.damping:<6g}"
        f" loss {last(run, steps):.3f}, {1e3 * run.seconds_per_step:.0f} ms a step",
        flush=True,
      )
  return runs


def last(run: Run, steps: int) -> float:
  """Mean loss of the last third; infinite for a run that broke off."""
  return math.inf if len(run.losses) < steps else statistics.fmean(run.losses[-steps // 3 :])


def recorded(folder: pathlib.Path) -> list[Run]:
  """Runs on CIFAR-10 of all optimisers that have been run."""
  runs = []
  for name in OPTIMIZERS:
    path = folder / f"optimizers-cifar10-{name}.json"
    for row in json.loads(path.read_text())["rows"] if path.exists() else ():
      runs.append(Run(**{**row, "settings": SETTINGS(**row["settings"])}))
  return runs


def draw(runs: list[Run], steps: int, path: pathlib.Path) -> None:
  """The best run of each optimiser, smoothed, against steps and seconds."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 3.6), layout="constrained")
  by_step, by_second = figure.subplots(1, 2, sharey=True)
  for name in dict.fromkeys(run.settings.name for run in runs):
    best = min((run for run in runs if run.settings.name == name), key=lambda r: last(r, steps))
    window = np.ones(10) / 10
    loss = np.convolve(best.losses, window, "valid")
    step = np.arange(10, len(best.losses) + 1)
    label = f"{name}, rate {best.settings.learning_rate:g}"
    by_step.plot(step, loss, label=label)
    by_second.plot(step * best.seconds_per_step, loss, label=label)
  by_step.set(xlabel="step", ylabel="training loss, mean of 10 steps")
  by_second.set(xlabel="seconds, compilation left out")
  by_step.legend()
  figure.savefig(path, dpi=110)


def main():
  """Runs one of the sweeps, prints it, writes JSON and a figure."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("problem", choices=("digits", "cifar10"))
  parser.add_argument("--only", choices=OPTIMIZERS, help="one optimiser")
  parser.add_argument("--steps", type=int, default=150)
  parser.add_argument("--sharing", choices=("reduce", "expand"), default="reduce")
  parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
  args = parser.parse_args()
  names = [args.only] if args.only else list(OPTIMIZERS)
  if args.problem == "digits":
    runs = digits(names, args.steps)
  else:
    runs = cifar10(names, args.steps, args.sharing, args.data_dir)
  for name in names:
    rows = [dataclasses.asdict(run) for run in runs if run.settings.name == name]
    record.write(args.out / f"optimizers-{args.problem}-{name}.json", rows)
  if args.problem == "cifar10":
    draw(recorded(args.out), args.steps, args.out / "optimizers-cifar10.png")


if __name__ == "__main__":
  main()
