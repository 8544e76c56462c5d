"""The folder of a run: who may begin or go on in it, and its config.json."""

import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from configs import Config
from endings import Ended
from jax.experimental import multihost_utils

from tatnet import training
from tatnet.training.files import write_whole

_MAY_CHANGE = {"resume", "force", "stop_after", "out", "data_dir", "workers", "contrast"}
_MAY_CHANGE |= {"coordinator", "num_processes", "process_id"}
_OF_THE_NETWORK = ("network", "depth", "width", "method", "activation", "shortcut_weight")
_OF_THE_NETWORK += ("shortcut", "normalization", "solved_activation")


def flags(config: Config, network) -> dict[str, Any]:
  """Every field, and the solved activation."""
  values = config.flags()
  if hasattr(network.activation, "to_dict"):
    values["solved_activation"] = json.loads(json.dumps(network.activation.to_dict()))
  return values


def check_folder(folder: pathlib.Path, config: Config, now: dict[str, Any]) -> None:
  """A new run does not mix with an old one, nor one network with another; all processes end, or none.

  Only the first looks: one that comes later would take its files for another run's.
  """
  refusal = _refusal(folder, config, now) if jax.process_index() == 0 else None
  if multihost_utils.broadcast_one_to_all(np.array(refusal is not None)):
    raise Ended(refusal or f"The first process does not begin in {folder}, and says why.")


def _refusal(folder: pathlib.Path, config: Config, now: dict[str, Any]) -> str | None:
  """Why a run cannot be in this folder."""
  steps = training.Checkpoints(folder / "checkpoints").steps()
  if not config.resume:
    if steps or (folder / "metrics.jsonl").exists():
      return f"{folder} holds a run already. Pass --resume to continue it, or another --out."
    return None
  changed = _changes(folder, now)
  others = [f"{key} {now.get(key)}, before {changed[key]}" for key in changed if _is_network(key)]
  if others and not config.force:
    return (
      f"The network does not fit the run in {folder}: {'; '.join(others)}. Give the run's own"
      " flags, or another --out, or --force to go on with another network."
    )
  return None


def _is_network(key: str) -> bool:
  return key in _OF_THE_NETWORK


def restore(folder: pathlib.Path, config: Config, like: Any) -> tuple[int, Any] | None:
  """The last intact checkpoint; None for a run that was ended before its first.

  Raises:
    Ended: there were checkpoints, and none is intact.
  """
  checkpoints = training.Checkpoints(folder / "checkpoints")
  found = checkpoints.restore(like)
  if found is not None:
    return found
  last = max((row["step"] for row in training.read_metrics(folder)), default=0)
  due = read_config(folder).get("checkpoint_every")
  # The step behind a checkpoint's is not taken before that is whole.
  if checkpoints.steps() or last > (due if type(due) is int else config.checkpoint_every):
    raise Ended(
      f"None of the checkpoints in {checkpoints.folder} is intact, and the run was at step {last}:"
      f" nothing is left to go on from, and nothing was changed. Bring them back, or begin anew:"
      f" move {folder} away, or give another --out, without --resume."
    )
  logging.warning("No checkpoint in %s: starting from the beginning.", folder)
  return None


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """A run's config.json; empty, with a warning, where it is damaged."""
  path = folder / "config.json"
  try:
    text = path.read_text()
    config = json.loads(text) if text else {}
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, RecursionError):
    config = None
  if not isinstance(config, dict):
    logging.warning("%s is damaged: what the run began with cannot be compared.", path)
    return {}
  return config


def _changes(folder: pathlib.Path, now: dict[str, Any]) -> dict[str, Any]:
  """What a run that goes on began with, where that was something else."""
  before = read_config(folder)
  if not before:
    return {}
  keys = sorted(now.keys() - _MAY_CHANGE)
  return {key: before.get(key) for key in keys if before.get(key) != now[key]}


def write_config(folder: pathlib.Path, start: int, now: dict[str, Any]) -> None:
  """Writes every field as it is used, and what has changed since the run began."""
  record = read_config(folder).get("changes", [])
  if changed := _changes(folder, now):
    for key, before in changed.items():
      logging.warning("Resumed with another %s: %s, before %s.", key, now[key], before)
    record = [*record, {"step": start, "before": changed}]
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").touch()  # that a run has begun here is said on a full disk too
  if record:
    now = now | {"changes": record}
  write_whole(folder / "config.json", json.dumps(now, indent=1))
