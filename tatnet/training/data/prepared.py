"""Folders prepared by TensorFlow Datasets in the ArrayRecord format, read without TensorFlow."""

import pathlib
from typing import Any

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


def open_prepared(name: str, split: str, data_dir: str | pathlib.Path | None) -> Any:
  """A TFDS data source, whose attribute `data_source` has the records.

  The folder is opened by its path, not by the name of the data set: with the name,
  TFDS tries to download what it does not find, and retries for minutes.

  Raises:
    DataNotPrepared: there is no such folder.
    ValueError: an unknown split, or examples without an image and a label.
  """
  folder = find_folder(name, data_dir)
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  missing = {"image", "label"} - set(builder.info.features)
  if missing:
    raise ValueError(
      f"{folder} has the features {sorted(builder.info.features)}; expected an 'image' and a"
      " 'label'. Wrap this data set in a class with __len__ and __getitem__ of its own."
    )
  if split.split("[")[0] not in builder.info.splits:  # "train[:90%]" is a split too
    raise ValueError(
      f"split={split!r}; {folder} has {', '.join(map(repr, sorted(builder.info.splits)))}."
    )
  return builder.as_data_source(split=split)


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
