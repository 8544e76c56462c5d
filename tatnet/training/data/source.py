"""Text that is on every machine: the source of Python's standard library, as characters."""

import hashlib
import pathlib
import sysconfig
from collections.abc import Sequence

import numpy as np

# Anything else is one more character, written as REPLACEMENT.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CHARACTERS = len(ALPHABET) + 1

_TEST = 10  # every tenth file, by a digest of its name
# Packages of others, tests, and tables of numbers.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "encodings", "pydoc_data"}


def load_source(
  split: str, context: int, folder: str | pathlib.Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Pieces of Python's standard library, and for each character the one that follows.

  The text is that of all modules in the order of their names, and is cut into pieces one
  behind the other. A file is in "test" by a digest of its name, so that no module is in both
  splits, and a module of another Python version stays where it is.

  Args:
    split: "train" or "test".
    context: characters of a piece.
    folder: one with Python files; None for the standard library of this interpreter.

  Returns:
    uint8 inputs and int32 labels ``[pieces, context]``, numbers below `CHARACTERS`; see `encode_text`.

  Raises:
    ValueError: an unknown split, a context below 1, or a folder with too little text.

  Example:
    >>> from tatnet.training import data
    >>> inputs, labels = data.load_source("test", 64)
    >>> inputs.shape[1], bool((inputs[0, 1:] == labels[0, :-1]).all())
    (64, True)
  """
  if split not in ("train", "test"):
    raise ValueError(f"split={split!r}; expected 'train' or 'test'.")
  if context != int(context) or context < 1:
    raise ValueError(f"context={context!r}; expected a number of characters from 1.")
  root = _root(folder)
  text = _text(root, split)
  pieces = (len(text) - 1) // context
  if pieces < 1:
    raise ValueError(
      f"{root} has {len(text)} characters of Python for {split!r}; expected more than context={context}."
    )
  taken = pieces * context
  inputs, labels = text[:taken], text[1 : taken + 1].astype(np.int32)
  return inputs.reshape(pieces, context), labels.reshape(pieces, context)


def source_digest(folder: str | pathlib.Path | None = None) -> str:
  """SHA-256 of both splits: the standard library is another with every version of Python.

  Args:
    folder: as for `load_source`.

  Example:
    >>> from tatnet.training import data
    >>> len(data.source_digest())
    64
  """
  digest = hashlib.sha256()
  for split in ("train", "test"):
    digest.update(_text(_root(folder), split).tobytes())
  return digest.hexdigest()


def encode_text(text: str) -> np.ndarray:
  """Numbers of characters, uint8; those outside of `ALPHABET` have the last.

  Args:
    text: a string.

  Example:
    >>> from tatnet.training import data
    >>> data.encode_text("\\n a").tolist(), data.decode_text(data.encode_text("def f():"))
    ([0, 1, 66], 'def f():')
  """
  codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
  table = np.full(128, len(ALPHABET), np.uint8)
  table[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))
  return np.where(codes < 128, table[np.minimum(codes, 127)], np.uint8(len(ALPHABET)))


def decode_text(numbers: Sequence[int] | np.ndarray) -> str:
  """The text of numbers.

  Args:
    numbers: integers from 0 to `CHARACTERS` - 1.

  Raises:
    ValueError: a number that no character has.

  Example:
    >>> from tatnet.training import data
    >>> data.decode_text([1, 66, 96])
    ' a\ufffd'
  """
  numbers = np.asarray(numbers)
  if numbers.size and not (numbers.min() >= 0 and numbers.max() < CHARACTERS):
    raise ValueError(
      f"numbers from {numbers.min()} to {numbers.max()}; expected 0 to {CHARACTERS - 1}."
    )
  return "".join((ALPHABET + REPLACEMENT)[number] for number in numbers)


def _root(folder: str | pathlib.Path | None) -> pathlib.Path:
  return pathlib.Path(sysconfig.get_path("stdlib") if folder is None else folder).absolute()


def _text(root: pathlib.Path, split: str) -> np.ndarray:
  """All characters of a split; a line's end is one, whatever the system writes."""
  texts = []
  for path in sorted(root.rglob("*.py")):
    name = path.relative_to(root)
    is_test = hashlib.sha256(name.as_posix().encode()).digest()[0] % _TEST == 0
    if is_test == (split == "test") and not _LEFT_OUT & set(name.parts[:-1]):
      texts.append(path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n"))
  return encode_text("\n".join(texts))
