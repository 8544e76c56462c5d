"""Batches for a config: arrays that lie on the device, or images that are decoded as they come."""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator

import fake
import jax
import jax.numpy as jnp
import numpy as np
from configs import Config

import tatnet
from tatnet import training
from tatnet.training import data

_LARGEST, _SIZED = 224, 32
_TEST_PIECES = 2000  # of text: an evaluation is a matter of seconds
IN_MEMORY = ("digits", "mnist", "cifar10", "cifar100")


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What the trainer asks of its data.

  Attributes:
    num_classes: number of labels.
    shape: of a batch as the network gets it.
    prepare: ``(key, images) -> inputs``, inside the train step.
    prepare_evaluation: the same without augmentation.
    batches: ``(start) ->`` training batches from a step on, without end.
    evaluation: ``() ->`` every test example once, with masks.
    unreadable: numbers of the images that could not be read, in training and in test.
  """

  num_classes: int
  shape: jax.ShapeDtypeStruct
  prepare: Callable
  prepare_evaluation: Callable
  batches: Callable[[int], Iterator]
  evaluation: Callable[[], Iterator]
  unreadable: dict[str, set[int]] = dataclasses.field(
    default_factory=lambda: {"training": set(), "test": set()}
  )


def open_inputs(config: Config, mesh: jax.sharding.Mesh) -> Inputs:
  """The data of a config."""
  if config.batch_size % mesh.size:
    raise ValueError(
      f"--batch-size {config.batch_size} on {mesh.size} devices; expected a multiple of them."
    )
  if config.data == "text":
    return characters(config, mesh)
  return (in_memory if config.data in IN_MEMORY else streamed)(config, mesh)


def _normalized(config: Config, name: str) -> Callable:
  statistics = data.STATISTICS[name]

  def normalized(images):
    x = data.normalize(images, statistics.mean, statistics.std)
    if config.network.startswith("mlp"):
      x = x.reshape(len(x), -1)  # one location
    return tatnet.per_location_normalize(x) if config.per_location_normalize else x

  return normalized


def in_memory(config: Config, mesh: jax.sharding.Mesh) -> Inputs:
  """A data set that fits on every device and is augmented there."""
  if config.fake_data:
    train, test = fake.arrays(config.data, "train"), fake.arrays(config.data, "test")
  else:
    train = data.load_arrays(config.data, "train", config.data_dir)
    test = data.load_arrays(config.data, "test", config.data_dir)
  normalized = _normalized(config, config.data)
  flips = config.data.startswith("cifar")

  def prepare(key, images):
    if config.augment and flips:
      images = data.pad_crop_flip(key, images)
    elif config.augment:
      images = data.shift(key, images, 2)
    return normalized(images)

  return _on_devices(config, mesh, train, test, int(train[1].max()) + 1, prepare, normalized)


def characters(config: Config, mesh: jax.sharding.Mesh) -> Inputs:
  """Pieces of the standard library's source, whose labels are the characters that follow."""
  if config.context is None:
    raise ValueError("--data text without --context; expected a number of characters.")
  if config.fake_data:
    train = test = fake.characters(_TEST_PIECES, config.context)
  else:
    train, test = (data.load_source(split, config.context) for split in ("train", "test"))
    spread = np.linspace(0, len(test[0]) - 1, min(_TEST_PIECES, len(test[0]))).astype(int)
    test = (test[0][spread], test[1][spread])

  def numbers(pieces):
    return pieces.astype(jnp.int32)

  return _on_devices(
    config, mesh, train, test, data.CHARACTERS, lambda _, pieces: numbers(pieces), numbers
  )


def _on_devices(
  config: Config,
  mesh: jax.sharding.Mesh,
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  num_classes: int,
  prepare: Callable,
  normalized: Callable,
) -> Inputs:
  """Inputs of arrays, every one of which lies on every device."""
  order = data.Shuffled(len(train[0]), config.batch_size, config.seed)

  take = jax.jit(
    lambda images, labels, indices: {"image": images[indices], "label": labels[indices]},
    out_shardings=jax.NamedSharding(mesh, jax.P("data")),
  )
  on_devices = functools.cache(lambda: training.replicated(mesh, train))

  def batches(start):
    images, labels = on_devices()
    step = start
    while True:
      yield take(images, labels, order.indices(step))
      step += 1

  def evaluation():
    part = (jax.process_index(), jax.process_count())
    for indices, mask in data.evaluation_batches(len(test[0]), config.batch_size, part):
      batch = {"image": test[0][indices], "label": test[1][indices], "mask": mask}
      yield training.sharded(mesh, batch)

  sample = jax.ShapeDtypeStruct((config.batch_size, *train[0].shape[1:]), jnp.uint8)
  return Inputs(
    num_classes,
    jax.eval_shape(normalized, sample),
    prepare,
    lambda _, images: normalized(images),
    batches,
    evaluation,
  )


def streamed(config: Config, mesh: jax.sharding.Mesh) -> Inputs:
  """ImageNet, or a folder of images: decoded, cropped and flipped in parallel."""
  train, test = _sources(config)
  size = config.image_size or _size_of(config, train)
  normalized = _normalized(config, "imagenet")
  cores = os.cpu_count() or 1
  workers = config.workers
  if workers is None:
    workers = 0 if cores <= 8 else min(cores - 2, 32)

  def read(source, name, **options):
    with data.image_batches(
      source,
      config.batch_size,
      config.seed,
      shard=(jax.process_index(), jax.process_count()),
      size=size,
      **options,
    ) as batches:
      for batch in batches:
        inputs.unreadable[name].update(batches.unreadable)
        yield training.sharded(mesh, batch)

  sample = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8)
  inputs = Inputs(
    train.num_classes,
    jax.eval_shape(normalized, sample),
    lambda _, images: normalized(images),
    lambda _, images: normalized(images),
    lambda start: read(train, "training", train=True, num_workers=workers, start_step=start),
    functools.partial(read, test, "test", train=False, num_workers=0),
  )
  return inputs


def _size_of(config: Config, source: data.ImageSource) -> int:
  """Of folders the median shorter side of some of their images, which may be small."""
  if config.fake_data or config.data == "imagenet":
    return _LARGEST
  sides = []
  for index in np.linspace(0, len(source) - 1, _SIZED).astype(int):
    with contextlib.suppress(data.UnreadableImage):  # it is reported when its turn comes
      sides.append(min(data.decode_image(source[int(index)].encoded).shape[:2]))
  size = min(int(np.median(sides)), _LARGEST) if sides else _LARGEST
  logging.warning("Images are cropped to %d pixels; --image-size for another size.", size)
  return size


def _sources(config: Config) -> tuple[data.ImageSource, data.ImageSource]:
  """Images to train and to test on."""
  if config.fake_data:
    images = fake.Images(config.image_size or _LARGEST)
    return images, images
  if config.data == "imagenet":
    train = data.TfdsImages("imagenet2012", "train", config.data_dir)
    return train, data.TfdsImages("imagenet2012", "validation", config.data_dir)
  folder = pathlib.Path(config.data)
  if not (folder / "train").is_dir() or not (folder / "test").is_dir():
    raise FileNotFoundError(
      f"--data {config.data} is none of {', '.join((*IN_MEMORY, 'text', 'imagenet'))}, and no folder with"
      " train and test in it; expected one of these names, or such a folder with one sub-folder of"
      " images per class in both."
    )
  train = data.ImageFolder(folder / "train")
  return train, data.ImageFolder(folder / "test", classes=train.classes)
