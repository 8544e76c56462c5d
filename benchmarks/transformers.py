"""Transformers without shortcuts and normalisation, and those with: which learn, and how fast.

    python benchmarks/transformers.py digits [--optimizers adam muon kfac adaptive-kfac]
    python benchmarks/transformers.py text --depth 12 [--schemes ...] [--etas ...]

digits: vision transformers of 12 blocks of 64 features on 16 patches, batches of 32. text: causal
ones on Python's own source, bits per character. For each scheme, eta and optimiser the learning
rate is that of the lowest mean loss over the last 20 steps of a run of half the length with seed
100; it then runs with the other seeds, for the same number of steps. Adaptive K-FAC has no rate.
Rows that the output file has already are kept, so that the table can be made in several sittings.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record
from problems import prepare_digits_images

import tatnet
from tatnet import training
from tatnet.training import data
from tatnet.training.optimizers import gains_apart

TUNING_SEED, LAST = 100, 20
# By name: the network's baseline, and whether eta shapes it.
SCHEMES = {
  "joint U": ("", True),
  "published U": ("-uspa", True),
  "published E": ("-spa", True),
  "Value-SkipInit": ("-vskipinit", True),
  "shaped": ("-shaped", True),
  "softmax": ("-vanilla", True),
  "cut-skip": ("-cutskip", False),
  "cut-skip, undivided": ("-cutskip_undivided", False),
  "pre-norm, shortcuts": ("-prenorm", False),
}
ETAS = (0.5, 0.7, 0.9)
RATES = {
  "adam": (3e-4, 1e-3, 3e-3, 1e-2),
  "muon": (1e-3, 3e-3, 1e-2, 3e-2),
  "kfac": (1e-4, 3e-4, 1e-3, 3e-3),
  "adaptive-kfac": (0.0,),
}
OF_FACTORS = ("kfac", "adaptive-kfac")


@dataclasses.dataclass(frozen=True)
class Task:
  """Data and sizes.

  Attributes:
    network: a name of `tatnet.nets`.
    classes: number of labels.
    options: of the network, but for its depth.
    batch, steps, warmup: of a run.
    train, test: pairs of inputs and labels.
    prepare: from what is stored to the network's inputs.
    loss: of an example.
  """

  network: str
  classes: int
  options: dict
  batch: int
  steps: int
  warmup: int
  train: tuple[np.ndarray, np.ndarray]
  test: tuple[np.ndarray, np.ndarray]
  prepare: Callable[[jax.Array], jax.Array]
  loss: tatnet.optim.Loss


def digits() -> Task:
  """Patches of 2 x 2 pixels."""
  train, test = (data.load_arrays("digits", split) for split in ("train", "test"))
  options = {"width": 64, "heads": 4, "context": 16, "patch": 2}
  loss = tatnet.optim.SoftmaxCrossEntropy()
  return Task(
    "vision_transformer", 10, options, 32, 150, 20, train, test, prepare_digits_images, loss
  )


def text() -> Task:
  """Characters, each of which is to be followed by the right one."""
  context = 64
  train, test = (data.load_source(split, context) for split in ("train", "test"))
  some = np.linspace(0, len(test[0]) - 1, 512).astype(int)
  loss = tatnet.optim.MeanOverLocations(tatnet.optim.SoftmaxCrossEntropy())
  options = {"width": 64, "heads": 4, "context": context}
  return Task(
    "transformer", data.CHARACTERS, options, 32, 300, 30, train, (test[0][some], test[1][some]),
    lambda ids: jnp.asarray(ids, jnp.int32), loss,
  )  # fmt: skip


TASKS = {"digits": digits, "text": text}


def optimizer_of(name: str):
  """An optimiser whose learning rate is an argument of its update: see `Trainer.step`."""
  if name == "kfac":
    make = functools.partial(tatnet.kfac, damping=1e-2, inverse_every=5, momentum=0.9)
    return gains_apart(optax.inject_hyperparams(make)(learning_rate=0.0), optax.adam(1e-3))
  if name == "adaptive-kfac":
    return gains_apart(tatnet.adaptive_kfac(), optax.adam(1e-3))
  settings = training.OptimizerSettings(name, 1.0, schedule="constant")
  return optax.chain(optax.clip_by_global_norm(1.0), training.make_optimizer(settings, 1))


class Trainer:
  """One network and optimiser, compiled once for all rates and seeds."""

  def __init__(self, task: Task, scheme: str, eta: float | None, depth: int, optimizer: str):
    baseline, is_shaped = SCHEMES[scheme]
    options = {**task.options, "depth": depth}
    if is_shaped:
      options |= {"method": tatnet.TAT(eta)}
    if optimizer in OF_FACTORS:  # keys from queries of zero have no gradient
      options["query_scale"] = 0.01
    self.task, self.name = task, optimizer
    self.network = tatnet.nets.create(task.network + baseline, task.classes, **options)
    self.optimizer = optax.with_extra_args_support(optimizer_of(optimizer))
    self.evaluate = tatnet.value_grad_and_factors(
      self.network, task.loss, sharing="expand", uncovered="identity"
    )

  @functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
  def step(self, params, state, rate, key, x, y):
    """One step at a learning rate."""
    x, extra = self.task.prepare(x), {}
    if self.name in OF_FACTORS:
      result = self.evaluate(params, x, y, state={}, key=key, is_training=True)
      loss, gradients = result.loss, result.gradients
      extra = {"factors": result.factors, "model": result.model}
    else:
      loss, gradients = jax.value_and_grad(self.loss)(params, x, y)
    if self.name == "kfac":
      state = optax.tree.set(state, learning_rate=rate)
    updates, state = self.optimizer.update(gradients, state, params, **extra)
    if self.name not in OF_FACTORS:
      updates = jax.tree.map(lambda update: rate * update, updates)
    return optax.apply_updates(params, updates), state, loss

  def loss(self, params, x, y):
    """Mean loss of a batch."""
    outputs, _ = self.network.apply(params, {}, None, x, True)
    return self.task.loss.per_example(outputs, y).mean()

  @functools.partial(jax.jit, static_argnums=0)
  def judged(self, params, x, y):
    """Mean loss and accuracy of a batch."""
    logits = self.network.apply(params, {}, None, self.task.prepare(x), False)[0]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, (jnp.argmax(logits, -1) == y).mean()

  def run(self, rate: float, seed: int, steps: int) -> dict:
    """Trains with a warm-up and a cosine; losses, and what becomes of the test examples."""
    task, (x, y) = self.task, self.task.train
    params, _ = self.network.initialize(jax.random.key(seed), task.prepare(x[: task.batch]))
    state, order = self.optimizer.init(params), data.Shuffled(len(x), task.batch, seed)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, task.warmup, steps)
    losses, seconds = [], []
    for number in range(steps):
      taken, key = order.indices(number), jax.random.fold_in(jax.random.key(seed), number)
      start = time.perf_counter()
      params, state, loss = self.step(params, state, schedule(number), key, x[taken], y[taken])
      losses.append(float(loss))
      seconds.append(time.perf_counter() - start)
      if not math.isfinite(losses[-1]):
        break
    parts = zip(*(np.array_split(a, max(1, len(a) // 128)) for a in task.test), strict=True)
    found = [(len(a), *map(float, self.judged(params, a, b))) for a, b in parts]
    count = sum(n for n, _, _ in found)
    return {
      "rate": rate,
      "seed": seed,
      "losses": [float(f"{loss:.4g}") for loss in losses],
      "last": statistics.fmean(losses[-LAST:]),
      "test_loss": sum(n * loss for n, loss, _ in found) / count,
      "test_accuracy": sum(n * right for n, _, right in found) / count,
      "seconds": statistics.median(seconds[1:]),
    }


def measured(
  task: Task, scheme: str, eta: float | None, depth: int, optimizer: str, seeds: int
) -> dict:
  """The best rate, and the runs with it."""
  trainer = Trainer(task, scheme, eta, depth, optimizer)
  rates = RATES[optimizer]
  tuning = [
    trainer.run(rate, TUNING_SEED, task.steps // 2) for rate in (rates if len(rates) > 1 else ())
  ]
  finite = [run for run in tuning if math.isfinite(run["last"])]
  rate = min(finite, key=lambda run: run["last"])["rate"] if finite else rates[0]
  runs = [trainer.run(rate, seed, task.steps) for seed in range(seeds)]
  for run in tuning:
    del run["losses"]
  return {
    "scheme": scheme,
    "eta": eta,
    "depth": depth,
    "optimizer": optimizer,
    "rate": rate,
    "at_edge": len(rates) > 1 and rate in (rates[0], rates[-1]),
    "tuning": tuning,
    "runs": runs,
  }


def cell(task: str, row: dict) -> str:
  """Mean and spread over the seeds, and the rate."""
  if task == "text":
    values = [run["test_loss"] / math.log(2) for run in row["runs"]]
  else:
    values = [100 * run["test_accuracy"] for run in row["runs"]]
  digits = 2 if task == "text" else 1
  mean, low, high = (
    f"{v:.{digits}f}" for v in (statistics.fmean(values), min(values), max(values))
  )
  rate = f", {row['rate']:g}{'*' if row['at_edge'] else ''}" if row["tuning"] else ""
  return f"{mean} ({low} to {high}){rate}"


def table(task: str, rows: list[dict], depth: int) -> Iterator[str]:
  """Rows of Markdown: schemes against optimisers."""
  rows = [row for row in rows if row["depth"] == depth]
  optimizers = [name for name in RATES if any(row["optimizer"] == name for row in rows)]
  yield f"| attention, {depth} blocks | eta | " + " | ".join(optimizers) + " |"
  yield "|---" * (len(optimizers) + 2) + "|"
  for scheme in SCHEMES:
    for eta in (*ETAS, None):
      found = {r["optimizer"]: r for r in rows if (r["scheme"], r["eta"]) == (scheme, eta)}
      if found:
        cells = [cell(task, found[name]) if name in found else "" for name in optimizers]
        yield f"| {scheme} | {'' if eta is None else eta} | " + " | ".join(cells) + " |"


def main():
  """Trains what is missing, prints the table, writes JSON after every row."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("task", choices=list(TASKS))
  parser.add_argument("--depth", type=int, default=12)
  parser.add_argument("--optimizers", nargs="*", default=["adam"], choices=list(RATES))
  parser.add_argument("--schemes", nargs="*", default=list(SCHEMES), choices=list(SCHEMES))
  parser.add_argument("--etas", nargs="*", type=float, default=list(ETAS))
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--out", type=pathlib.Path, help="transformers_<task>.json if not given")
  args = parser.parse_args()
  out = args.out or record.FOLDER / "results" / f"transformers_{args.task}.json"
  rows = json.loads(out.read_text())["rows"] if out.exists() else []
  there = {(row["scheme"], row["eta"], row["depth"], row["optimizer"]) for row in rows}
  task = TASKS[args.task]()
  for optimizer in args.optimizers:
    for scheme in args.schemes:
      for eta in args.etas if SCHEMES[scheme][1] else (None,):
        if (scheme, eta, args.depth, optimizer) in there:
          continue
        row = measured(task, scheme, eta, args.depth, optimizer, args.seeds)
        rows.append(row)
        said = cell(args.task, row)
        ms = 1e3 * statistics.median(run["seconds"] for run in row["runs"])
        print(f"{optimizer:14} {scheme:20} {eta}: {said}, {ms:.0f} ms a step", flush=True)
        record.write(out, rows, steps=task.steps, batch=task.batch)
  print("\n".join(table(args.task, rows, args.depth)))
  print("Mean over seeds (smallest to largest), learning rate; * at an end of its grid.")


if __name__ == "__main__":
  main()
