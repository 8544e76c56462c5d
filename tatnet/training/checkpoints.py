"""Checkpoints that are whole or not used."""

import hashlib
import json
import logging
import pathlib
import shutil
from typing import Any

import jax

_MANIFEST = "manifest.json"
_logger = logging.getLogger(__name__)


class CheckpointNotWritten(OSError):  # noqa: N818, a state of the disk and not of the program
  """A checkpoint could not be written; those before it are untouched."""


class Checkpoints:
  """Checkpoints of a run: Orbax's, each with the digests of its files.

  A checkpoint counts once its manifest is there and every file is as it was
  written. One that was never finished is passed over, and so, with a warning, is one
  that is damaged.

  Attributes:
    folder: where they lie, one sub-folder for each step.
    keep: number of the latest ones to keep.

  Raises:
    ValueError: `keep` is less than 1.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   checkpoints = tatnet.training.Checkpoints(folder)
    ...   checkpoints.save(3, {"w": jnp.ones(2)})
    ...   print(checkpoints.restore({"w": jnp.zeros(2)}))
    (3, {'w': Array([1., 1.], dtype=float32)})
  """

  def __init__(self, folder: str | pathlib.Path, keep: int = 2):
    if keep < 1:
      raise ValueError(f"keep={keep}; expected at least 1.")
    self.folder = pathlib.Path(folder).absolute()
    self.keep = keep

  def save(self, step: int, state: Any) -> None:
    """Writes a checkpoint; returns when it is whole.

    Args:
      step: names the checkpoint.
      state: a pytree of arrays.

    Raises:
      CheckpointNotWritten: the disk is full, or the like; what was written of the
        checkpoint is removed, those before are untouched.
    """
    target = self.folder / str(step)
    try:
      self._write(target, state)
    except Exception as error:  # Orbax passes on those of several libraries
      shutil.rmtree(target, ignore_errors=True)
      raise CheckpointNotWritten(self._what_is_left(target, error)) from error
    if jax.process_index() == 0:
      for old in self.steps()[: -self.keep]:
        _remove(self.folder / str(old))

  def _write(self, target: pathlib.Path, state: Any) -> None:
    import orbax.checkpoint as ocp  # of the [examples] extra

    self.folder.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(target / "state", state, force=True)
    if jax.process_index() == 0:
      manifest = json.dumps({"files": _digests(target), "leaves": _leaves(state)})
      partial = target / f"{_MANIFEST}.partial"
      partial.write_text(manifest)
      partial.rename(target / _MANIFEST)

  def _what_is_left(self, target: pathlib.Path, error: Exception) -> str:
    existing = next(path for path in target.parents if path.is_dir())
    free = shutil.disk_usage(existing).free / 2**20
    kept = (
      f"The checkpoint of step {self.steps()[-1]} is intact" if self.steps() else "There is none"
    )
    reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else repr(error)
    return (
      f"The checkpoint {target} could not be written, with {free:.0f} MB free on that disk: {reason}"
      f"\n{kept}. Free some space, or keep the run on another disk."
    )

  def steps(self) -> list[int]:
    """Steps of the checkpoints that were finished, in order."""
    if not self.folder.is_dir():
      return []
    found = [path.parent for path in self.folder.glob(f"*/{_MANIFEST}")]
    return sorted(int(path.name) for path in found if path.name.isdigit())

  def restore(self, like: Any) -> tuple[int, Any] | None:
    """The latest checkpoint that is intact.

    Args:
      like: a tree of the structure, shapes, dtypes and shardings that were saved.

    Returns:
      ``(step, state)``; None where there is no intact checkpoint.

    Raises:
      ValueError: the checkpoint is of another model or optimiser.
    """
    import orbax.checkpoint as ocp

    for step in reversed(self.steps()):
      target = self.folder / str(step)
      if (damage := _damage(target)) is not None:
        _logger.warning("The checkpoint %s is damaged (%s); trying the one before.", target, damage)
        continue
      _check_fits(target, json.loads((target / _MANIFEST).read_text())["leaves"], _leaves(like))
      with ocp.StandardCheckpointer() as checkpointer:
        return step, checkpointer.restore(target / "state", like)
    return None


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """Digest of every file, by its path in the folder."""
  digests = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file() and not path.name.startswith(_MANIFEST):
      with path.open("rb") as file:
        digests[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
  return digests


def _leaves(state: Any) -> dict[str, str]:
  """Shape and dtype of every array, by its path in the tree."""
  return {
    jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
    for path, leaf in jax.tree.leaves_with_path(state)
  }


def _check_fits(folder: pathlib.Path, saved: dict[str, str], wanted: dict[str, str]) -> None:
  """Raises ValueError where a checkpoint holds other arrays than the run has."""
  if saved == wanted:
    return
  names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
  listed = "\n".join(
    f"  {name}: saved {saved.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}"
    for name in names[:10]
  )
  raise ValueError(
    f"The checkpoint {folder} does not fit the run in {len(names)} places:\n{listed}\nExpected the"
    " network and the optimiser that wrote it; start the new run in another folder."
  )


def _damage(folder: pathlib.Path) -> str | None:
  """What is wrong with a checkpoint's files."""
  try:
    expected = json.loads((folder / _MANIFEST).read_text())["files"]
  except (ValueError, KeyError):
    return "unreadable manifest"
  found = _digests(folder)
  for name, digest in expected.items():
    if name not in found:
      return f"{name} is missing"
    if found[name] != digest:
      return f"{name} has changed"
  return None


def _remove(folder: pathlib.Path) -> None:
  """Deletes a checkpoint, its manifest first, so that a rest of it does not count."""
  (folder / _MANIFEST).unlink()
  shutil.rmtree(folder)
