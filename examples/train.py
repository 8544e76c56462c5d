"""Trains deep networks, with shortcuts or without.

python examples/train.py digits

python examples/train.py cifar10 --network cifar_resnet56 --eta 0.9 --steps 4000 --contrast

python examples/train.py --plot runs/cifar10-cifar_resnet20 runs/cifar10-cifar_resnet56
"""

import argparse
import dataclasses
import json
import logging
import math
import pathlib
import shlex
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import tyro
from configs import CONFIGS, Config
from jax.experimental import multihost_utils
from loop import NotFinite, Record, assemble, train, unreadable_images

import tatnet
from tatnet import training

_MAY_CHANGE = {"resume", "stop_after", "out", "data_dir", "workers", "contrast"}
_MAY_CHANGE |= {"coordinator", "num_processes", "process_id"}


class Row(NamedTuple):
  """What is printed about a run at the end; a contrast that diverged has no result."""

  config: Config
  folder: pathlib.Path
  result: training.Result | None
  minutes: float


def run(config: Config, folder: pathlib.Path) -> Row:
  """Trains one network, or goes on with it."""
  begin = time.perf_counter()
  try:
    parts = assemble(config)
    _check_folder(folder, config)
    found = (
      training.Checkpoints(folder / "checkpoints").restore(parts.like) if config.resume else None
    )
  except (FileNotFoundError, ValueError) as error:  # of what was asked for
    sys.exit(str(error))
  if jax.process_index() == 0:
    _write_config(folder, config, parts.network)
    if config.resume and found is None:
      logging.warning("No checkpoint in %s: starting from the beginning.", folder)
  start, state = (0, parts.initial()) if found is None else found
  del found  # the step consumes the state: nothing else may hold it
  record = Record(config, folder, start)
  stop = min(config.steps, start + (config.stop_after or config.steps))
  outcome = train(parts, state, record, stop)
  record.close()
  if (left_out := unreadable_images(parts.inputs)) and jax.process_index() == 0:
    print(left_out, file=sys.stderr)
  if outcome.stopped:
    again = shlex.join(["python", *sys.argv, *([] if config.resume else ["--resume"])])
    sys.exit(f"Stopped and saved at step {outcome.step}. Go on with:\n  {again}")
  result = outcome.result or parts.evaluate(outcome.state)
  return Row(config, folder, result, (time.perf_counter() - begin) / 60)


def _check_folder(folder: pathlib.Path, config: Config) -> None:
  """A new run does not mix with an old one; all processes end, or none.

  Only the first looks: one that comes later would take its files for another run's.
  """
  refusal = _refusal(folder, config) if jax.process_index() == 0 else None
  if multihost_utils.broadcast_one_to_all(np.array(refusal is not None)):
    sys.exit(refusal or f"The first process does not begin in {folder}, and says why.")


def _refusal(folder: pathlib.Path, config: Config) -> str | None:
  """Why a run cannot be in this folder; one that goes on says here what has changed."""
  path = folder / "config.json"
  if not config.resume and (folder / "metrics.jsonl").exists():
    return f"{folder} holds a run already. Pass --resume to continue it, or another --out."
  if config.resume and path.exists():
    before, now = json.loads(path.read_text()), config.flags()
    for key in sorted(now):
      if key not in _MAY_CHANGE and before.get(key) != now[key]:
        logging.warning(
          "Resumed with another %s: %s, before %s.", key, now[key], before.get(key, "nothing")
        )
  return None


def _write_config(folder: pathlib.Path, config: Config, network) -> None:
  """Every field, and the solved activation."""
  saved = config.flags()
  if hasattr(network.activation, "to_dict"):
    saved["solved_activation"] = network.activation.to_dict()
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(saved, indent=1))


def main(config: Config) -> list[Row]:
  """Trains, then trains what it is contrasted with, and prints the results."""
  if config.coordinator is not None:
    address = None if config.coordinator == "auto" else config.coordinator
    training.start_processes(address, config.num_processes, config.process_id)
  name = pathlib.Path(config.data).name
  out = pathlib.Path(config.out or f"runs/{name}-{config.network}")
  runs = {out: config}
  try:
    for contrast in config.contrast:
      folder = out.with_name(f"{out.name}-vs-{contrast.replace(':', '-')}")
      runs[folder] = config.contrasted(contrast)
      tatnet.nets.architecture_of(runs[folder].network)  # not after hours of the first run
    runs = {folder: each.resolved() for folder, each in runs.items()}
  except ValueError as error:
    sys.exit(str(error))
  rows = []
  for folder, each in runs.items():
    try:
      rows.append(run(dataclasses.replace(each, contrast=()), folder))
    except NotFinite as error:
      if folder == out:
        sys.exit(str(error))
      print(f"{each.network}, {each.optimizer}: {error}", file=sys.stderr)
      rows.append(Row(each, folder, None, math.nan))
  if jax.process_index() == 0:
    _print_summary(rows, out / "curves.png")
  return rows


def _print_summary(rows: list[Row], picture: pathlib.Path) -> None:
  drawn = [row.folder for row in rows if training.read_metrics(row.folder)]
  training.plot_runs({_label(folder): folder for folder in drawn}, picture)
  print(f"\n{'network':26} {'optimiser':9} {'test accuracy':>14} {'test loss':>10} {'minutes':>8}")
  for config, _, result, minutes in rows:
    run_of = f"{config.network:26} {config.optimizer:9}"
    if result is None:
      print(f"{run_of} {'diverged':>14}")
    else:
      print(f"{run_of} {100 * result.accuracy:12.2f} % {result.loss:10.4f} {minutes:8.1f}")
  config, _, result, _ = rows[0]
  print(f"{config.steps} steps of {config.batch_size} images, {result.count} test images.")
  print(f"Curves: {picture}")


def _label(folder: pathlib.Path) -> str:
  """A run in a legend."""
  config = json.loads((folder / "config.json").read_text())
  return f"{config['network']}, {config['optimizer']}"


def plot(arguments: list[str]) -> None:
  """Draws several runs in one figure."""
  parser = argparse.ArgumentParser(description="Draws several runs in one figure.")
  parser.add_argument("--plot", nargs="+", type=pathlib.Path, metavar="FOLDER")
  parser.add_argument("--out", default="curves.png", help="the PNG; curves.png if not given")
  given = parser.parse_args(arguments)
  labels = [_label(folder) for folder in given.plot]
  if len(set(labels)) < len(labels):
    labels = [f"{folder.name}: {label}" for folder, label in zip(given.plot, labels, strict=True)]
  training.plot_runs(dict(zip(labels, given.plot, strict=True)), given.out)
  print(f"Curves: {given.out}")


if __name__ == "__main__":
  logging.basicConfig(level=logging.WARNING, format="%(message)s")
  if "--plot" in sys.argv:
    plot(sys.argv[1:])
  else:
    chosen = tyro.extras.overridable_config_cli(CONFIGS, description=__doc__)
    try:
      main(chosen)
    except KeyboardInterrupt:  # while no step was running
      sys.exit("Stopped; what was saved before is intact.")
