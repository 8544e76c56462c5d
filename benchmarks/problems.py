"""What `results.py` trains on: data, networks by depth, and the settings of the sweep."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import tatnet
from tatnet.training import data


@dataclasses.dataclass(frozen=True)
class Problem:
  """A data set, and the networks to train on it.

  Attributes:
    data: name of the data set.
    depths: of the networks.
    methods: by name, the arguments of `tatnet.nets.create` for a depth.
    rates: learning rates to choose from.
    tuning_steps: of the runs that choose.
    steps: of the runs that count.
    prepare: images as they are stored, and a key for augmentation, to inputs.
    title: what the figure says.
  """

  data: str
  depths: Sequence[int]
  methods: Mapping[str, Callable[[int], dict[str, Any]]]
  rates: Sequence[float]
  tuning_steps: int
  steps: int
  prepare: Callable[[jax.Array | None, jax.Array], jax.Array]
  title: str


def prepare_digits(key, images):
  """Inputs ``[n, 65]`` with q = 1."""
  del key
  channels = data.STATISTICS["digits"]
  x = data.normalize(images, channels.mean, channels.std).reshape(len(images), -1)
  return tatnet.per_location_normalize(x)


def prepare_digits_images(images):
  """Images ``[n, 8, 8, 1]`` of mean 0 and variance 1."""
  channels = data.STATISTICS["digits"]
  return data.normalize(images, channels.mean, channels.std)


def prepare_cifar10(key, images):
  """Inputs ``[n, 16, 16, 3]``: shifted and mirrored if there is a key, then averaged."""
  channels = data.STATISTICS["cifar10"]
  images = images if key is None else data.pad_crop_flip(key, images)
  images = data.normalize(images, channels.mean, channels.std)
  return images.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))


def mlp(depth, name="mlp", **options):
  """A network for digits."""
  return {"name": name, "width": 192, "depth": depth, **options}


def convnet(depth, baseline="", **options):
  """A network for CIFAR-10, of 16, 32 and 64 channels."""
  return {"name": f"cifar_resnet20{baseline}", "depth": depth, **options}


# Shallow networks, and those with shortcuts, do not reach 0.9.
ETA = {8: 0.6, 20: 0.8, 56: 0.9}
orthogonal = tatnet.ScaledUniformOrthogonal()
PROBLEMS = {
  "digits": Problem(
    data="digits",
    depths=(10, 30, 100),
    methods={
      # Ten layers of ReLU reach 0.87, so that eta is 0.8 there.
      "TAT, leaky ReLU": lambda d: mlp(d, method=tatnet.TAT(0.9 if d > 12 else 0.8)),
      "TAT, tanh": lambda d: mlp(d, activation="tanh", method=tatnet.TAT()),
      "DKS, tanh": lambda d: mlp(d, activation="tanh", method=tatnet.DKS()),
      "EOC, ReLU (He)": lambda d: mlp(d, "mlp-eoc"),
      "tanh as it is": lambda d: mlp(d, activation=jnp.tanh, w_init=orthogonal),
      "batch norm and shortcuts": lambda d: mlp(d, "mlp-bn"),
    },
    rates=(1e-4, 3e-4, 1e-3),
    tuning_steps=60,
    steps=200,
    prepare=prepare_digits,
    title="digits, MLPs of 192 units, 200 steps of Adam",
  ),
  "cifar10": Problem(
    data="cifar10",
    depths=(8, 20, 56),
    methods={
      "TAT, leaky ReLU": lambda d: convnet(d, method=tatnet.TAT(ETA[d])),
      "DKS, tanh": lambda d: convnet(d, activation="tanh", method=tatnet.DKS()),
      "EOC, ReLU (He)": lambda d: convnet(d, "-eoc"),
      "tanh as it is": lambda d: convnet(d, activation=jnp.tanh, w_init=orthogonal),
      "TAT, w 0.5": lambda d: convnet(d, method=tatnet.TAT(ETA[d]), shortcut_weight=0.5),
      "TAT, w 0.8": lambda d: convnet(d, method=tatnet.TAT(ETA[d]), shortcut_weight=0.8),
      "ReLU, w 0.8": lambda d: convnet(d, "-rescaled"),
      "batch norm, shortcuts": lambda d: convnet(d, "-bn", shortcut="projection"),
      "the same, modified": lambda d: convnet(d, "-bn", shortcut="pool+projection"),
      "batch norm, no shortcuts": lambda d: convnet(d, "-noshort"),
    },
    rates=(3e-4, 1e-3, 3e-3),
    tuning_steps=40,
    steps=200,
    prepare=prepare_cifar10,
    title="CIFAR-10 at 16x16, 16 to 64 channels, 200 steps of Adam",
  ),
  "identity": Problem(
    data="cifar10",
    depths=(56,),
    methods={
      "identity parameterisation": lambda d: {"name": f"identity_resnet{d}"},
      "the same with batch norm": lambda d: {"name": f"identity_resnet{d}-bn"},
    },
    rates=(3e-4, 1e-3, 3e-3),
    tuning_steps=40,
    steps=200,
    prepare=prepare_cifar10,
    title="CIFAR-10 at 16x16, the network of Hardt & Ma, 200 steps of Adam",
  ),
}
