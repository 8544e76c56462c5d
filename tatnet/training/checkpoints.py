"""Checkpoints that are whole or not used."""

import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
from typing import Any

import jax

from tatnet.training.files import write_whole

_MANIFEST = "manifest.json"
_MOST_OF_METADATA = 2**20  # bytes
_logger = logging.getLogger(__name__)


class CheckpointNotWritten(OSError):  # noqa: N818, a state of the disk and not of the program
  """A checkpoint could not be written; those before it are untouched."""


class Checkpoints:
  """Checkpoints of a run: Orbax's, each with the digests of its files.

  A checkpoint counts once its manifest is there and every file is as it was
  written, the manifest itself included. One that was never finished is passed over, and
  so, with a warning, is one that is damaged.

  Attributes:
    folder: where they lie, one sub-folder for each step.
    keep: number of intact ones to keep, the one that is written included. Later ones
      than that one are never touched.

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
    self._seen_whole: dict[int, Any] = {}  # stamps, where reading all of it again tells no more

  def save(self, step: int, state: Any) -> None:
    """Writes a checkpoint; returns when it is whole.

    Args:
      step: names the checkpoint.
      state: a pytree of arrays.

    Raises:
      ValueError: a step that is no integer from 0.
      CheckpointNotWritten: the disk is full, or the like; what was written of the
        checkpoint is removed, those before are untouched.
    """
    if step != int(step) or step < 0:
      raise ValueError(f"step={step!r}; expected an integer from 0.")
    target = self.folder / str(int(step))
    try:
      self._write(target, state)
    except Exception as error:  # Orbax passes on those of several libraries
      shutil.rmtree(_partial(target), ignore_errors=True)
      raise CheckpointNotWritten(self._what_is_left(target, error)) from error
    if jax.process_index() == 0:
      self._seen_whole[int(step)] = _stamps(target)
      self._remove_old(step)

  def _write(self, target: pathlib.Path, state: Any) -> None:
    """Writes beside the checkpoint's place, and puts it there when it is whole."""
    import orbax.checkpoint as ocp  # of the [examples] extra

    partial = _partial(target)
    self.folder.mkdir(parents=True, exist_ok=True)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _MOST_OF_METADATA
    if shutil.disk_usage(self.folder).free < needed:  # before Orbax's threads find out
      reason = f"{os.strerror(errno.ENOSPC)} for its {needed / 2**20:.0f} MB"
      raise OSError(errno.ENOSPC, reason, str(target))
    # Compression takes longer than all the rest, and saves a twelfth of float32's bytes.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False)
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(partial / "state", args=ocp.args.PyTreeSave(state), force=True)
    if jax.process_index() == 0:
      body = {"files": _digests(partial), "leaves": _leaves(state)}
      write_whole(partial / _MANIFEST, json.dumps({"digest": _digest(body), **body}))
      if target.exists():
        _remove(target)
      partial.rename(target)

  def _remove_old(self, step: int) -> None:
    """What is older than the last `keep` intact ones up to this step, and rests of unfinished ones."""
    kept = 1  # this one
    for old in reversed([number for number in self.steps() if number < step]):
      if kept >= self.keep:
        _remove(self.folder / str(old))
      elif self._is_whole(old):
        kept += 1
    for rest in self.folder.glob("*.partial"):
      shutil.rmtree(rest, ignore_errors=True)

  def _is_whole(self, step: int) -> bool:
    """Whether a checkpoint is intact, which is not asked again of files that nobody has touched."""
    target = self.folder / str(step)
    stamps = _stamps(target)
    if self._seen_whole.get(step) != stamps:
      if _damage(target) is not None:
        return False
      self._seen_whole[step] = stamps
    return True

  def _what_is_left(self, target: pathlib.Path, error: Exception) -> str:
    existing = next(path for path in target.parents if path.is_dir())
    free = shutil.disk_usage(existing).free / 2**20
    last = self.latest()
    kept = "There is none" if last is None else f"The checkpoint of step {last} is intact"
    reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else repr(error)
    return (
      f"The checkpoint {target} could not be written, with {free:.0f} MB free on that disk: {reason}"
      f"\n{kept}. Free some space, or keep the run on another disk."
    )

  def steps(self) -> list[int]:
    """Steps of the checkpoints that were finished, in order; those damaged since included."""
    if not self.folder.is_dir():
      return []
    names = [path.name for path in self.folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())

  def latest(self) -> int | None:
    """Step of the latest checkpoint that is intact; None where there is none."""
    intact = (step for step in reversed(self.steps()) if _damage(self.folder / str(step)) is None)
    return next(intact, None)

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
      _check_fits(target, _read_manifest(target)["leaves"], _leaves(like))
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


def _stamps(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
  """What the file system says of every file: identity, size, and the times of both."""
  stats = {str(path): path.lstat() for path in folder.rglob("*")}
  return {
    name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    for name, stat in stats.items()
  }


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


class _Damaged(Exception):  # noqa: N818, a state of a file
  """A manifest that is not as it was written."""


def _digest(body: dict[str, Any]) -> str:
  """Of a manifest's content, however it is laid out."""
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  """Files and leaves of a checkpoint; raises _Damaged if that is not what was written."""
  try:
    body = json.loads((folder / _MANIFEST).read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise _Damaged("unreadable manifest") from error
  if not isinstance(body, dict) or body.pop("digest", None) != _digest(body):
    raise _Damaged("the manifest has changed")
  return body


def _damage(folder: pathlib.Path) -> str | None:
  """What is wrong with a checkpoint's files."""
  try:
    expected = _read_manifest(folder)["files"]
    found = _digests(folder)
  except _Damaged as damage:
    return str(damage)
  except OSError as error:
    return f"{error.filename} cannot be read: {error.strerror}"
  for name, digest in expected.items():
    if name not in found:
      return f"{name} is missing"
    if found[name] != digest:
      return f"{name} has changed"
  return None


def _partial(target: pathlib.Path) -> pathlib.Path:
  """Where a checkpoint lies while it is written."""
  return target.with_name(f"{target.name}.partial")


def _remove(folder: pathlib.Path) -> None:
  """Deletes a checkpoint, moved away first, so that a rest of it does not count."""
  away = folder.with_name(f"{folder.name}.old.partial")
  shutil.rmtree(away, ignore_errors=True)
  shutil.rmtree(folder.rename(away))
