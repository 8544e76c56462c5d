"""Sources of encoded images: prepared TFDS folders, and folders of JPEG and PNG files."""

import errno
import os
import pathlib
import stat
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tatnet.training.data.decode import UnreadableImage
from tatnet.training.data.prepared import open_prepared

_SUFFIXES = (".jpg", ".jpeg", ".png")
_OF_FILE_MANAGERS = ("thumbs.db", "desktop.ini")


class EncodedImage(NamedTuple):
  """The bytes of a JPEG or PNG file, and the number of its class.

  Attributes:
    encoded: the file's bytes.
    label: number of the class, from 0.
  """

  encoded: bytes
  label: int


class ImageSource(Protocol):
  """What `image_batches` reads from; it is pickled where processes decode."""

  def __len__(self) -> int:
    """Number of examples."""

  def __getitem__(self, index: int) -> EncodedImage:
    """One example."""


class TfdsImages:
  """Images in a prepared ArrayRecord folder of TFDS, left encoded.

  Args:
    name: a name of TFDS, such as "imagenet2012".
    split: such as "train", "validation", "train[:1%]".
    data_dir: the folder that holds the folder `name`; None for TFDS's own.

  Raises:
    DataNotPrepared: the folder is missing; the message has the command that makes it.
    DamagedData: the folder is damaged, or a record that is asked for.
    ValueError: an unknown split, or examples without an image and a label.

  Example:
    >>> source = TfdsImages("imagenet2012", "train", data_dir="data")  # doctest: +SKIP
    >>> source[0].label  # doctest: +SKIP
    482
  """

  def __init__(self, name: str, split: str, data_dir: str | pathlib.Path | None = None):
    self._arguments = (name, split, data_dir)
    self._records = open_prepared(name, split, data_dir)
    self.num_classes = self._records.num_classes

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> EncodedImage:
    return EncodedImage(*self._records.example(index))

  def describe(self, index: int) -> str:
    """Where to find an example, for messages."""
    return self._records.describe(index)

  def __reduce__(self):  # open files do not travel to other processes
    return TfdsImages, self._arguments


class ImageFolder:
  """JPEG and PNG files, one sub-folder per class.

  Args:
    path: the folder; its sub-folders in alphabetical order are the classes 0, 1, ...
    classes: names of the classes in the order of their labels, for a folder that lacks
      some, such as a small validation set: ``ImageFolder(val, classes=train.classes)``.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: no sub-folders, images beside them, a class without images, other files
      among the images, or a class that is not in `classes`.

  Example:
    >>> import pathlib, tempfile
    >>> import PIL.Image
    >>> from tatnet.training import data
    >>> folder = tempfile.TemporaryDirectory()
    >>> for name in ("cat", "dog"):
    ...   path = pathlib.Path(folder.name, name)
    ...   path.mkdir()
    ...   PIL.Image.new("RGB", (8, 8)).save(path / "1.png")
    >>> source = data.ImageFolder(folder.name)
    >>> source.classes, len(source), source[1].label
    (('cat', 'dog'), 2, 1)
    >>> folder.cleanup()
  """

  def __init__(self, path: str | pathlib.Path, classes: Sequence[str] | None = None):
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
      raise FileNotFoundError(f"{root} is not a folder; expected one with a sub-folder per class.")
    entries = sorted(entry for entry in root.iterdir() if not _is_ignored(entry))
    folders = [entry for entry in entries if entry.is_dir()]
    if lost := [entry for entry in entries if entry.is_symlink() and not entry.exists()]:
      raise ValueError(f"{lost[0]} is a link to nothing; expected a class, or no such link.")
    beside = [entry for entry in entries if entry.suffix.lower() in _SUFFIXES]
    if not folders or beside:
      raise ValueError(
        f"{root} has {len(folders)} sub-folder(s) and {len(beside)} image(s) beside them; expected"
        " one sub-folder per class, and all images inside those."
      )
    self.classes = tuple(folder.name for folder in folders) if classes is None else tuple(classes)
    labels = {name: label for label, name in enumerate(self.classes)}
    self._root = root
    self._files: list[tuple[str, int]] = []  # strings, since millions of paths are slow to pickle
    for folder in folders:
      if folder.name not in labels:
        raise ValueError(
          f"{folder} is none of the classes {list(self.classes)[:10]}; expected the sub-folders to"
          " be named like them."
        )
      names = [str(file.relative_to(root)) for file in _images_in(folder)]
      self._files += [(name, labels[folder.name]) for name in names]

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.classes)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> EncodedImage:
    name, label = self._files[index]
    return EncodedImage(_content(self._root / name), label)

  def describe(self, index: int) -> str:
    """The path of an example, for messages."""
    return str(self._root / self._files[index][0])


def _content(path: pathlib.Path) -> bytes:
  """Of a file; raises UnreadableImage where there is none, or something else, such as a pipe."""
  try:
    # A pipe that nobody writes to would be waited for.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
      if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise UnreadableImage(f"{path} is not a file.")
      return file.read()
  except OSError as error:
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # no matter of this file
      raise
    raise UnreadableImage(f"{path}: {error.strerror}.") from error


def _is_ignored(entry: pathlib.Path) -> bool:
  return entry.name.startswith(".") or entry.name.lower() in _OF_FILE_MANAGERS


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
  entries = sorted(entry for entry in folder.iterdir() if not _is_ignored(entry))
  others = [entry for entry in entries if entry.suffix.lower() not in _SUFFIXES]
  if others:
    raise ValueError(
      f"{folder} has {len(others)} other file(s) or folder(s) among its images, such as"
      f" {others[0].name!r}; expected only {', '.join(_SUFFIXES)}. Convert or remove them; if it"
      " holds the classes, give its path instead."
    )
  if not entries:
    raise ValueError(f"{folder} has no images; expected some in every class, or no such folder.")
  return entries
