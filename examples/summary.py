"""What is said of runs at their end: a table, and a figure."""

import argparse
import math
import pathlib
from typing import Any, NamedTuple

import endings
import folders
from configs import Config

from tatnet import training
from tatnet.training import data


class Row(NamedTuple):
  """What is printed about a run at the end; a contrast that diverged has no result.

  Attributes:
    config: of the run.
    folder: of the run.
    result: of the last evaluation.
    best_accuracy: of all evaluations.
    minutes: that it took.
  """

  config: Config
  folder: pathlib.Path
  result: training.Result | None = None
  best_accuracy: float = math.nan
  minutes: float = math.nan


def print_table(rows: list[Row]) -> None:
  """The last and the best accuracy of each run."""
  columns = f"{'test accuracy':>14} {'best':>8} {'test loss':>10} {'minutes':>8}"
  print(f"\n{'network':26} {'optimiser':9} {columns}")
  for row in rows:
    run_of = f"{row.config.network:26} {row.config.optimizer:9}"
    if row.result is None:
      print(f"{run_of} {'diverged':>14}")
    else:
      accuracies = f"{100 * row.result.accuracy:12.2f} % {100 * row.best_accuracy:6.2f} %"
      print(f"{run_of} {accuracies} {row.result.loss:10.4f} {row.minutes:8.1f}")
  config, result = rows[0].config, rows[0].result
  if config.data == "text":
    pieces = f"pieces of {config.context} characters"
    print(f"{config.steps} steps of {config.batch_size} {pieces}, {result.count} test {pieces}.")
    for row in rows:
      if row.result is not None:
        bits = row.result.loss / math.log(2)
        print(f"{row.config.network:26} {bits:.3f} bits per character")
    if not config.fake_data:
      print(f"The text is that of this Python's library, SHA-256 {data.source_digest()[:16]}.")
    return
  print(f"{config.steps} steps of {config.batch_size} images, {result.count} test images.")


def draw(runs: list[pathlib.Path], picture: pathlib.Path) -> None:
  """One figure of all runs that have metrics; what they have in common is its title."""
  drawn = [folder for folder in runs if training.read_metrics(folder)]
  said = {folder: _parts(folder) for folder in drawn}
  common = [part for part in said[drawn[0]] if all(part in parts for parts in said.values())]
  labels = {}
  for folder, parts in said.items():
    label = ", ".join(part for part in parts if part not in common) or folder.name
    labels[f"{folder.name}: {label}" if label in labels else label] = folder
  training.plot_runs(labels, picture, title=", ".join(common))
  print(f"Curves: {picture}")


def _parts(folder: pathlib.Path) -> list[str]:
  """A run in words: network, depth, activation, method, optimiser, data, batch."""
  config = folders.read_config(folder)
  if not config:
    return [folder.name]
  network, depth = config.get("network"), config.get("depth")
  own = "-" in network or network.startswith("identity")  # its activation and its method too
  solved: dict[str, Any] = config.get("solved_activation", {})
  parts = [
    network,
    depth and f"{depth} layers",
    solved.get("name", None if own else config.get("activation")),
    None if own or config.get("method") == "none" else config.get("method").upper(),
    config.get("optimizer"),
    "random images" if config.get("fake_data") else pathlib.Path(config.get("data")).name,
    f"batch {config.get('batch_size')}",
  ]
  return [part for part in parts if part]


def plot(arguments: list[str]) -> None:
  """Draws several runs in one figure."""
  parser = argparse.ArgumentParser(description="Draws several runs in one figure.")
  parser.add_argument("--plot", nargs="+", type=pathlib.Path, metavar="FOLDER")
  parser.add_argument(
    "--out",
    default=pathlib.Path("curves.png"),
    type=pathlib.Path,
    help="the PNG; curves.png if not given",
  )
  given = parser.parse_args(arguments)
  for folder in given.plot:
    if not training.read_metrics(folder):
      raise endings.Ended(f"{folder} has no metrics.jsonl; expected the folder of a run.")
  with endings.sentences(given.plot[0]):
    draw(given.plot, given.out)
