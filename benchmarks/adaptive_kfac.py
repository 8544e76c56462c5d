"""K-FAC that finds its own step sizes, without a number given, on problems of several kinds.

    python benchmarks/adaptive_kfac.py [tasks] [--seeds 3] [--rivals] [--steps N] --data-dir DATA

Full loss of 2000 training images (of all, where there are fewer) every ten steps, the
burn-in of ten batches not counted. With --rivals also Adam, SGD and Muon at four rates
and K-FAC at a grid of fixed settings, momentum 0.9, inverses every five steps, from the
first seed. Runs that the output file has already are kept, so that a long table can be
made in several sittings. Targets: the autoencoder at most 28 at step 200, the tanh MLP at
most 0.077 at step 150; nowhere a loss above the first one after step 20; to the loss that
it reaches at two thirds of its run, at most 1.1 times the steps of the best fixed setting.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import pathlib
import statistics
import time
from collections.abc import Iterator

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import record
from adaptive_tasks import TASKS, Task

import tatnet
from tatnet.training import data

BURN_IN, EVERY = 10, 10
OWN = "adaptive K-FAC"
FIRST_ORDER = {
  "Adam": optax.adam,
  "SGD": lambda rate: optax.sgd(rate, 0.9, nesterov=True),
  "Muon": optax.contrib.muon,
}


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
  yield OWN, tatnet.adaptive_kfac(), True
  if not with_rivals:
    return
  for name, make in FIRST_ORDER.items():
    for rate in task.rates[name]:
      yield f"{name} {rate:g}", make(rate), False
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


def trained(
  name: str, task: Task, label: str, optimizer, takes_factors: bool, seeds: list[int]
) -> Iterator[Run]:
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
  for seed in seeds:
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
        if not math.isfinite(losses[-1]):
          break
    run = Run(name, label, seed, losses, statistics.median(seconds[1:]))
    print(
      f"{name:12} {label:18} seed {seed}: loss {losses[0]:.4g}, {losses[len(losses) // 2]:.4g}"
      f" halfway, {losses[-1]:.4g} at the end, {1e3 * run.seconds:.0f} ms a step",
      flush=True,
    )
    yield run


def steps_to(losses: list[float], target: float) -> float:
  """Steps to a loss, between two looks by a straight line; infinite if it is not reached."""
  for i, (before, after) in enumerate(itertools.pairwise(losses)):
    if after <= target:
      return EVERY * (i + (before - target) / max(before - after, 1e-30) if before > target else i)
  return math.inf


def judged(name: str, task: Task, runs: list[Run]) -> list[dict]:
  """What is asked of the adaptive mode."""
  own = [run for run in runs if run.task == name and run.optimizer == OWN]
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
  fixed = [run for run in runs if run.task == name and run.optimizer.startswith("K-FAC")]
  if fixed:
    seed = fixed[0].seed
    losses = next(run.losses for run in own if run.seed == seed)
    target = losses[2 * (len(losses) - 1) // 3]
    best = min(steps_to(run.losses, target) for run in fixed)
    verdicts.append(
      record.verdict(
        f"{name}: steps to the loss at two thirds, over those of the best fixed setting",
        steps_to(losses, target) / best,
        1.1,
      )
    )
  return verdicts


def kept(out: pathlib.Path) -> list[Run]:
  """The runs that an output file has already."""
  return [Run(**row) for row in json.loads(out.read_text())["rows"]] if out.exists() else []


def main():
  """Trains, prints, judges and writes JSON, after every optimiser."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all if not given")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--rivals", action="store_true", help="first order and fixed K-FAC too")
  parser.add_argument("--steps", type=int, help="of a run, in place of the task's own number")
  parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
  folder = record.FOLDER / "results"
  parser.add_argument("--out", type=pathlib.Path, default=folder / "adaptive_kfac.json")
  args = parser.parse_args()
  runs = kept(args.out)
  names = args.tasks or list(TASKS)
  tasks = {name: TASKS[name](args.data_dir) for name in names}
  for name, task in tasks.items():
    if args.steps:
      tasks[name] = task = dataclasses.replace(task, steps=args.steps)
    for label, optimizer, takes_factors in optimizers(task, args.rivals):
      there = {run.seed for run in runs if (run.task, run.optimizer) == (name, label)}
      missing = [s for s in range(args.seeds if label == OWN else 1) if s not in there]
      if missing:
        runs += trained(name, task, label, optimizer, takes_factors, missing)
        record.write(args.out, [dataclasses.asdict(run) for run in runs])
  verdicts = [found for name, task in tasks.items() for found in judged(name, task, runs)]
  record.write(args.out, [dataclasses.asdict(run) for run in runs], verdicts)


if __name__ == "__main__":
  main()
