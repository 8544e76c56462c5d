"""Batches for a config: arrays that lie on the device, or images that are decoded as they come."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from configs import Config

import tatnet
from tatnet import training
from tatnet.training import data

IN_MEMORY = ("digits", "mnist", "cifar10", "cifar100")


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What the trainer asks of its data.

  Attributes:
    num_classes: number of labels.
    shape: of a batch as the network gets it.
    prepare: ``(key, images) -> inputs``, inside the train step.
    prepare_evaluation: the same without augmentation.
    batches: ``(mesh, start) ->`` training batches from a step on.
    evaluation: ``(mesh) ->`` every test example once, with masks.
  """

  num_classes: int
  shape: jax.ShapeDtypeStruct
  prepare: Callable
  prepare_evaluation: Callable
  batches: Callable[..., Iterator]
  evaluation: Callable[..., Iterator]


def open_inputs(config: Config) -> Inputs:
  """The data of a config."""
  return in_memory(config) if config.data in IN_MEMORY else streamed(config)


def _normalized(config: Config, name: str) -> Callable:
  statistics = data.STATISTICS[name]

  def normalized(images):
    x = data.normalize(images, statistics.mean, statistics.std)
    if config.network.startswith("mlp"):
      x = x.reshape(len(x), -1)  # one location
    return tatnet.per_location_normalize(x) if config.per_location_normalize else x

  return normalized


def in_memory(config: Config) -> Inputs:
  """A data set that fits on the device and is augmented there."""
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

  order = data.Shuffled(len(train[0]), config.batch_size, config.seed)
  shard = (jax.process_index(), jax.process_count())

  def batches(mesh, start):
    images, labels = (jnp.asarray(array) for array in train)
    take = jax.jit(lambda indices: {"image": images[indices], "label": labels[indices]})
    for step in range(start, config.steps):
      if mesh.size == 1:
        yield take(order.indices(step))
      else:
        own = order.shard(*shard).indices(step)
        yield training.sharded(mesh, {"image": train[0][own], "label": train[1][own]})

  def evaluation(mesh):
    for indices, mask in data.evaluation_batches(len(test[0]), config.batch_size, part=shard):
      batch = {"image": test[0][indices], "label": test[1][indices], "mask": mask}
      yield training.sharded(mesh, batch)

  sample = jax.ShapeDtypeStruct((config.batch_size, *train[0].shape[1:]), jnp.uint8)
  return Inputs(
    int(train[1].max()) + 1,
    jax.eval_shape(normalized, sample),
    prepare,
    lambda _, images: normalized(images),
    batches,
    evaluation,
  )


def streamed(config: Config) -> Inputs:
  """ImageNet, or a folder of images: decoded, cropped and flipped by workers."""
  if config.data == "imagenet":
    train = data.TfdsImages("imagenet2012", "train", config.data_dir)
    test = data.TfdsImages("imagenet2012", "validation", config.data_dir)
    num_classes = 1000
  else:
    folder = pathlib.Path(config.data)
    train = data.ImageFolder(folder / "train")
    test = data.ImageFolder(folder / "test", classes=train.classes)
    num_classes = len(train.classes)
  normalized = _normalized(config, "imagenet")
  stream = functools.partial(
    data.image_batches,
    batch_size=config.batch_size,
    seed=config.seed,
    shard=(jax.process_index(), jax.process_count()),
  )

  def batches(mesh, start):
    workers = min(8, os.cpu_count() or 1)
    with stream(train, train=True, num_workers=workers, start_step=start) as stream_of_batches:
      for batch in stream_of_batches:
        yield training.sharded(mesh, batch)

  def evaluation(mesh):
    with stream(test, train=False, num_workers=0) as stream_of_batches:
      for batch in stream_of_batches:
        yield training.sharded(mesh, batch)

  sample = jax.ShapeDtypeStruct((config.batch_size, 224, 224, 3), jnp.uint8)
  return Inputs(
    num_classes,
    jax.eval_shape(normalized, sample),
    lambda _, images: normalized(images),
    lambda _, images: normalized(images),
    batches,
    evaluation,
  )
