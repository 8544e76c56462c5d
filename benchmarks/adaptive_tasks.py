"""What `adaptive_kfac.py` trains: networks, data, and the fixed settings of their rivals."""

import dataclasses
from collections.abc import Callable, Mapping

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from problems import prepare_digits

import tatnet
from tatnet import optim
from tatnet.training import data

RATES = {
  "Adam": (3e-4, 1e-3, 3e-3, 1e-2),
  "SGD": (1e-3, 3e-3, 1e-2, 3e-2),
  "Muon": (1e-3, 3e-3, 1e-2, 3e-2),
}
DEEP_RATES = {
  "Adam": (3e-5, 1e-4, 3e-4, 1e-3),
  "SGD": (3e-4, 1e-3, 3e-3, 1e-2),
  "Muon": (3e-4, 1e-3, 3e-3, 1e-2),
}


@dataclasses.dataclass(frozen=True)
class Task:
  """What is trained.

  Attributes:
    forward: the network.
    loss: of its outputs.
    inputs: all examples.
    targets: theirs.
    batch: examples a step.
    steps: of a run, without the burn-in.
    grid: rates and dampings of fixed K-FAC.
    norm_constraint: of fixed K-FAC.
    target: of the last loss; None for none.
    rates: of Adam, SGD and Muon.
  """

  forward: Callable
  loss: optim.Loss
  inputs: np.ndarray
  targets: np.ndarray
  batch: int
  steps: int
  grid: tuple[tuple[float, ...], tuple[float, ...]]
  norm_constraint: float | None = 1e-3
  target: float | None = None
  rates: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=lambda: dict(RATES))


def averaged(images: np.ndarray) -> np.ndarray:
  """Images at half their size."""
  n, height, width, channels = images.shape
  return images.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def standardised(images: np.ndarray) -> np.ndarray:
  """Of mean 0 and variance 1 in every channel, as floats."""
  axes = tuple(range(images.ndim - 1))
  return ((images - images.mean(axes)) / images.std(axes)).astype(np.float32)


def autoencoder(data_dir: str | None) -> Task:
  """MNIST at 14x14 through a bottleneck of twelve units."""
  images, _ = data.load_arrays("mnist", "train[:10000]", data_dir)
  x = (averaged(images) / 255).reshape(len(images), -1).astype(np.float32)
  init = hk.initializers.VarianceScaling(1, "fan_avg", "uniform")

  def forward(x):
    for size in (128, 64, 32, 12, 32, 64, 128):
      x = jnp.tanh(hk.Linear(size, w_init=init)(x))
    return hk.Linear(196, w_init=init)(x)

  grid = ((0.01, 0.03, 0.1), (0.1, 1.0, 10.0))
  return Task(forward, optim.SigmoidCrossEntropy(), x, x, 500, 200, grid, None, 28.0)


def tanh_mlp(data_dir: str | None) -> Task:
  """MNIST at 14x14 by twenty layers, not shaped."""
  images, labels = data.load_arrays("mnist", "train[:10000]", data_dir)
  x = standardised(averaged(images)).reshape(len(images), -1)

  def forward(x):
    for _ in range(19):
      x = jnp.tanh(hk.Linear(64, w_init=hk.initializers.Orthogonal())(x))
    return hk.Linear(10)(x)

  grid = ((1e-3, 3e-3, 1e-2), (0.01, 0.03, 0.1))
  return Task(forward, optim.SoftmaxCrossEntropy(), x, labels, 256, 150, grid, target=0.077)


def regression(data_dir: str | None) -> Task:
  """A smooth function of eight numbers by thirty shaped tanh layers."""
  del data_dir
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2000, 8)).astype(np.float32)
  y = np.stack([np.sin(2 * x[:, 0]) * x[:, 1], np.cos(x[:, 2] + x[:, 3])], axis=1)
  activation = tatnet.transform_activation("tanh", tatnet.chain(30), tatnet.TAT())

  def forward(x):
    for _ in range(30):
      x = activation(hk.Linear(48, w_init=tatnet.ScaledUniformOrthogonal())(x))
    return hk.Linear(2)(x)

  grid = ((1e-4, 1e-3, 1e-2), (1e-3, 1e-2, 0.1))
  return Task(forward, optim.SquaredError(), x, y, 128, 150, grid, rates=DEEP_RATES)


def textures(data_dir: str | None) -> Task:
  """Three classes of noise by a shaped convnet of thirty layers, batches of 32."""
  del data_dir
  rng = np.random.default_rng(0)
  y = rng.integers(0, 3, 450)
  x = rng.normal(size=(3, 16, 16, 3))[y] * 0.7 + rng.normal(size=(450, 16, 16, 3))

  def forward(images, activation):
    init = tatnet.ScaledUniformOrthogonal()
    x = tatnet.per_location_normalize(images)
    for i in range(30):
      conv = hk.Conv2D(24 if i < 15 else 48, 3, stride=2 if i == 15 else 1, w_init=init)
      x = activation(conv(x))
    return hk.Linear(3, w_init=init)(x.mean((1, 2)))

  shape = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
  topology = tatnet.trace(forward, shape)
  activation = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.8))
  grid = ((3e-5, 1e-4, 1e-3), (1e-3, 3e-3, 1e-2))
  return Task(
    lambda images: forward(images, activation),
    optim.SoftmaxCrossEntropy(),
    x.astype(np.float32),
    y,
    32,
    45,
    grid,
    rates=DEEP_RATES,
  )


def digits(data_dir: str | None) -> Task:
  """The digits by fifty layers of leaky ReLU, shaped by TAT."""
  del data_dir
  images, labels = data.load_arrays("digits", "train")
  activation = tatnet.transform_activation("leaky_relu", tatnet.chain(50), tatnet.TAT())

  def forward(x):
    for _ in range(50):
      x = activation(hk.Linear(256, w_init=tatnet.ScaledUniformOrthogonal())(x))
    return hk.Linear(10, w_init=tatnet.ScaledUniformOrthogonal())(x)

  x, grid = np.asarray(prepare_digits(None, images)), ((3e-5, 1e-4, 3e-4), (1e-3, 3e-3, 1e-2))
  return Task(forward, optim.SoftmaxCrossEntropy(), x, labels, 128, 90, grid, rates=DEEP_RATES)


def small_cifar10(data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
  """CIFAR-10 at 16x16, standardised."""
  images, labels = data.load_arrays("cifar10", "train[:10000]", data_dir)
  return standardised(averaged(images)), labels


def convnet(data_dir: str | None) -> Task:
  """CIFAR-10 at 16x16 by seven layers of ReLU, not shaped."""
  x, labels = small_cifar10(data_dir)

  def forward(x):
    for channels, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
      x = jax.nn.relu(hk.Conv2D(channels, 3, stride=stride)(x))
    return hk.Linear(10)(x.mean((1, 2)))

  grid = ((1e-3, 3e-3, 1e-2), (0.01, 0.03, 0.1))
  return Task(forward, optim.SoftmaxCrossEntropy(), x, labels, 128, 200, grid)


def vanilla_convnet(data_dir: str | None) -> Task:
  """CIFAR-10 at 16x16 by twenty layers without shortcuts, shaped by TAT."""
  x, labels = small_cifar10(data_dir)
  network = tatnet.nets.create("cifar_resnet20", 10, method=tatnet.TAT(0.8))
  grid = ((3e-5, 1e-4, 3e-4), (1e-3, 3e-3, 1e-2))

  def forward(x):
    return network.forward(x, network.activation)

  return Task(forward, optim.SoftmaxCrossEntropy(), x, labels, 128, 150, grid, rates=DEEP_RATES)


TASKS = {
  task.__name__: task
  for task in (autoencoder, tanh_mlp, regression, textures, digits, convnet, vanilla_convnet)
}
