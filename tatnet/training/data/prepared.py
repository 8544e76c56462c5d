"""Folders prepared by TensorFlow Datasets in the ArrayRecord format, read without TensorFlow."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from tatnet.training.data.records import image_and_label

_FEATURES = "tensorflow_datasets.core.features."
_MANUAL = {
  "imagenet2012": " ImageNet's two archives have to be in downloads/manual of that folder before.",
}


class DataNotPrepared(FileNotFoundError):  # noqa: N818, a state of the folder and not of the program
  """The folder of a data set is missing; the message says how to prepare it.

  Example:
    >>> from tatnet.training import data
    >>> try:
    ...   data.load_arrays("mnist", "train", data_dir="/nowhere")
    ... except data.DataNotPrepared as error:
    ...   "download_and_prepare" in str(error)
    True
  """


class DamagedData(ValueError):  # noqa: N818, a state of a file and not of the program
  """A file or a record is not as it was prepared; the message says which, and what is wrong.

  Example:
    >>> from tatnet.training import data
    >>> issubclass(data.DamagedData, ValueError)
    True
  """


def find_folder(name: str, data_dir: str | pathlib.Path | None) -> pathlib.Path:
  """The folder of the newest prepared version of a data set.

  Args:
    name: a name of TFDS, with its configuration if it has one: "cifar10",
      "imagenet_resized/64x64".
    data_dir: the folder that holds `name`; None for TFDS's own.

  Returns:
    A folder with dataset_info.json and ArrayRecord files.

  Raises:
    DataNotPrepared: there is none.
  """
  root = _default_root() if data_dir is None else pathlib.Path(data_dir).expanduser()
  versions = [file.parent for file in (root / name).glob("*/dataset_info.json")]
  readable = [folder for folder in versions if any(folder.glob("*array_record*"))]
  if not readable:
    raise DataNotPrepared(_how_to_prepare(name, root, data_dir, versions))
  return max(readable, key=_version)


def open_prepared(name: str, split: str, data_dir: str | pathlib.Path | None) -> "PreparedRecords":
  """The records of a split.

  The folder is opened by its path, not by the name of the data set: with the name,
  TFDS tries to download what it does not find, and retries for minutes.

  Raises:
    DataNotPrepared: there is no such folder.
    DamagedData: its descriptions are damaged, or its files are not those that they describe.
    ValueError: an unknown split, or examples without an image and a label.
  """
  folder = find_folder(name, data_dir)
  _check_features(folder)
  import tensorflow_datasets as tfds

  with _telling(f"{folder}: dataset_info.json or features.json is damaged"):
    builder = tfds.builder_from_directory(folder)
    features, splits = builder.info.features, builder.info.splits
  missing = {"image", "label"} - set(features)
  if missing or not getattr(features["label"], "num_classes", None):
    raise ValueError(
      f"{folder} has the features {sorted(features)}; expected an 'image' and a 'label' of classes."
      " Wrap this data set in a class with __len__ and __getitem__ of its own."
    )
  if split.split("[")[0] not in splits:  # "train[:90%]" is a split too
    raise ValueError(f"split={split!r}; {folder} has {', '.join(map(repr, sorted(splits)))}.")
  with _telling(f"{folder}: dataset_info.json does not describe its files"):
    files = splits[split].file_instructions
  _check_files(folder, files)
  with _telling(str(folder)):
    source = builder.as_data_source(split=split).data_source
  return PreparedRecords(source, split, files, features["label"].num_classes)


class PreparedRecords:
  """Records of a split, whose errors name the file and the record.

  Attributes:
    num_classes: labels are below it.
  """

  def __init__(self, source: Any, split: str, files: Sequence[Any], num_classes: int):
    self.num_classes = num_classes
    self._source, self._split, self._files = source, split, files

  def __len__(self) -> int:
    return len(self._source)

  def describe(self, index: int) -> str:
    """The file of a record, and its number there."""
    first = 0
    for file in self._files:
      if index < first + file.take:
        number = index - first + file.skip
        return f"record {index} of {self._split!r} in {file.filename}, number {number} there"
      first += file.take
    raise IndexError(f"record {index} behind the end")

  def example(self, index: int) -> tuple[bytes, int]:
    """The encoded image and the label of a record; raises DamagedData."""
    with _telling(self.describe(index)):
      return self._checked(self._source[index])

  def examples(self, indices: range) -> list[tuple[bytes, int]]:
    """Many at once, which is faster than one after the other."""
    try:
      return [self._checked(record) for record in self._source.__getitems__(indices)]
    except Exception:  # some one of them
      return [self.example(index) for index in indices]

  def _checked(self, record: bytes) -> tuple[bytes, int]:
    encoded, label = image_and_label(record)
    if not 0 <= label < self.num_classes:
      raise ValueError(f"the label {label}; expected one of 0 to {self.num_classes - 1}.")
    return encoded, label


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
  """Libraries raise whatever they like for damaged files."""
  try:
    yield
  except Exception as error:
    first_line = (str(error).strip() or repr(error)).splitlines()[0]
    raise DamagedData(f"{what}: {first_line}") from error


def _check_features(folder: pathlib.Path) -> None:
  """Only what TFDS itself has may be imported by a description of features."""
  path = folder / "features.json"
  with _telling(f"{path} is damaged"):
    pending = [json.loads(path.read_text())]
    while pending:
      part = pending.pop()
      entries = part.items() if isinstance(part, dict) else enumerate(part)
      for key, value in entries:
        # "type" in the format of older versions; a feature of that name is a dictionary.
        is_class = key == "pythonClassName" or (key == "type" and isinstance(value, str))
        if is_class and not str(value).startswith(_FEATURES):
          raise ValueError(f"it names {value!r}; expected only features of {_FEATURES}*")
        if key == "features" and any(pathlib.PurePath(name).name != name for name in value):
          raise ValueError(f"features named {sorted(value)}; expected names without folders.")
        if isinstance(value, dict | list):
          pending.append(value)


def _check_files(folder: pathlib.Path, files: Sequence[Any]) -> None:
  """The files that dataset_info.json names lie in the folder, and are as long as it says."""
  from array_record.python.array_record_data_source import ArrayRecordDataSource

  for file in files:
    path = pathlib.Path(file.filename)
    if pathlib.Path(os.path.normpath(path)).parent != pathlib.Path(os.path.normpath(folder)):
      raise DamagedData(f"{folder}: dataset_info.json names {path}; expected files of this folder.")
    if not path.is_file():
      raise DamagedData(f"{path} is missing; dataset_info.json names it.")
    with _telling(f"{path} is damaged"):
      found = len(ArrayRecordDataSource(str(path)))
    if found != file.examples_in_shard:
      raise DamagedData(
        f"{path} has {found} records; dataset_info.json says {file.examples_in_shard}."
      )


def _default_root() -> pathlib.Path:
  import tensorflow_datasets as tfds

  return pathlib.Path(tfds.core.constants.DATA_DIR).expanduser()


def _version(folder: pathlib.Path) -> tuple[int, ...]:
  return tuple(int(part) if part.isdigit() else -1 for part in folder.name.split("."))


def _how_to_prepare(name: str, root: pathlib.Path, data_dir, versions) -> str:
  where = "" if data_dir is None else f", data_dir={str(root)!r}"
  command = (
    'pip install tensorflow && python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder({name!r}{where}, file_format='array_record').download_and_prepare()\""
  )
  found = (
    f"{versions[0]} is not in the ArrayRecord format; move it away first."
    if versions
    else f"There is no prepared {name!r} in {root}."
  )
  return (
    f"{found} This prepares it, once and with TensorFlow, which training does not need:\n"
    f"  {command}\n"
    f"Or give the folder that holds {name!r}: data_dir=, or --data-dir of the trainer."
    f"{_MANUAL.get(name, '')}"
  )
