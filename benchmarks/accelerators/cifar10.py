"""CIFAR-10 at 20 layers, by the example trainer's parts, for as many epochs as a time allows."""

import pathlib
import sys
import time
from typing import NamedTuple

import jax

from tatnet import training

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

IMAGES = 50_000
TRIED, WARM = 200, 50  # steps of the run that finds the speed, and those that do not count
TOY_STEPS = 30
NETWORKS = ("cifar_resnet20", "cifar_resnet20-bn")
TOY_NETWORK = {"network": "mlp", "depth": 14, "width": 8, "batch_size": 64}


class Trained(NamedTuple):
  """Some steps of a run."""

  state: training.TrainState
  loss: float  # of the last batch
  step_seconds: float


def measure(toy: bool, data_dir: str | None, minutes: float) -> list[dict]:
  """The network without shortcuts and normalisation, and the usual one, half of the time each."""
  if toy:
    return [run(TOY_NETWORK, data_dir, None)]
  seconds = 60 * minutes / len(NETWORKS)
  return [run({"network": name, "batch_size": 256}, data_dir, seconds) for name in NETWORKS]


def run(network: dict, data_dir: str | None, seconds: float | None) -> dict:
  """Finds the speed in a short run, plans whole epochs for what is left, and trains.

  Without a time: a few steps.
  """
  import configs
  import loop

  config = configs.CONFIGS["cifar10"][1].replaced(
    **network,
    optimizer="muon",
    contrast=(),
    data_dir=data_dir,
    fake_data=data_dir is None,
  )

  def parts(steps: int):
    return loop.assemble(config.replaced(steps=steps).resolved())

  steps = TOY_STEPS
  if seconds is not None:
    start = time.perf_counter()
    tried = train(parts(TRIED), TRIED)
    left = seconds - (time.perf_counter() - start)
    epoch = IMAGES // config.batch_size
    steps = epoch * max(1, int(left / (epoch * tried.step_seconds)))
  whole = parts(steps)
  trained = train(whole, steps)
  result = whole.evaluate(trained.state, lambda _: False)
  return {
    "network": config.network,
    "optimizer": config.optimizer,
    "batch": config.batch_size,
    "data": "made" if data_dir is None else "CIFAR-10",
    "steps": steps,
    "epochs": steps * config.batch_size / IMAGES,
    "step_ms": 1000 * trained.step_seconds,
    "images_per_second": config.batch_size / trained.step_seconds,
    "loss": trained.loss,
    "accuracy": result.accuracy,
  }


def train(parts, stop: int) -> Trained:
  """The first steps of a run, by its own parts and without its files."""
  warm = min(WARM, stop // 2)
  due = parts.config.optimizer_settings.factors_due
  batches = parts.inputs.batches(0)
  state, start = parts.initial(), time.perf_counter()
  for number, batch in zip(range(stop), batches, strict=False):
    if number == warm:  # what is compiled at the start does not count
      jax.block_until_ready(state)
      start = time.perf_counter()
    state, metrics = parts.step(state, batch, refresh=due(number))
  loss = float(metrics["loss"])
  batches.close()
  return Trained(state, loss, (time.perf_counter() - start) / (stop - warm))


def table(rows: list[dict]) -> str:
  """As Markdown."""
  lines = [
    "| network, optimiser | data | epochs | images/s | test accuracy |",
    "|---|---|---|---|---|",
  ]
  lines += [
    f"| {row['network']}, {row['optimizer']}, batch {row['batch']} | {row['data']}"
    f" | {row['epochs']:.3g} | {row['images_per_second']:.0f} | {100 * row['accuracy']:.1f} % |"
    for row in rows
  ]
  return "\n".join(lines)
