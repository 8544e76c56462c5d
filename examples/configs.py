"""One config per run. Every field can be overridden on the command line."""

import dataclasses
from typing import Literal

from tatnet.training import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class Config:
  """A training run.

  Attributes:
    data: digits, mnist, cifar10, cifar100, imagenet, or the path of a folder with one
      sub-folder of JPEG or PNG images for each class.
    data_dir: folder of prepared TensorFlow Datasets; their own default if not given.
    network: a name of tatnet.nets.names(), without depth for mlp.
    depth: hidden layers of an mlp.
    width: units of an mlp, or multiplier of a CIFAR ResNet's channels.
    method: how the activation is shaped; none takes it as it is. Networks that are
      named with a baseline have their own.
    activation: name of the activation.
    eta: target of TAT for leaky_relu.
    tau: target of TAT for smooth activations.
    zeta: target of DKS.
    shortcut_weight: 0 for no shortcuts; see tatnet.nets.Options.
    normalization: batch, layer or weight.
    dropout_rate: in front of the last layer.
    optimizer: name of the optimiser.
    learning_rate: at the end of the warm-up.
    schedule: cosine to 0, constant, or a tenth after 3/5 and after 4/5 of the run.
    warmup_steps: of linear warm-up from 0.
    momentum: of sgd, lars and kfac.
    weight_decay: on weights only.
    damping: of kfac.
    norm_constraint: of kfac.
    factors_every: steps between refreshes of kfac's factors.
    inverse_every: steps between kfac's inversions.
    burn_in: first steps, on which kfac only collects factors.
    batch_size: global, over all devices.
    steps: length of the run.
    augment: whether images are shifted, and flipped where that makes sense.
    per_location_normalize: PLN of the inputs.
    label_smoothing: of the training loss.
    average_decay: of the moving average that is evaluated; None for none.
    precision: of the computation; parameters and factors stay float32.
    seed: of everything.
    evaluate_every: steps.
    checkpoint_every: steps.
    contrast: names of networks to train after this one, for comparison.
    out: folder of the run; runs/<data>-<network> if not given.
    resume: continue the run in that folder.
  """

  data: str = "digits"
  data_dir: str | None = None
  network: str = "mlp"
  depth: int | None = None
  width: int | None = None
  method: Literal["tat", "dks", "eoc", "none"] | None = None
  activation: str = "leaky_relu"
  eta: float = 0.9
  tau: float = 0.3
  zeta: float = 1.5
  shortcut_weight: float | None = 0.0
  normalization: Literal["batch", "layer", "weight"] | None = None
  dropout_rate: float = 0.0
  optimizer: Literal["sgd", "adam", "lars", "kfac", "muon"] = "kfac"
  learning_rate: float = 1e-3
  schedule: Literal["cosine", "constant", "steps"] = "cosine"
  warmup_steps: int = 0
  momentum: float = 0.9
  weight_decay: float = 0.0
  damping: float = 1e-3
  norm_constraint: float | None = 1e-3
  factors_every: int = 1
  inverse_every: int = 50
  burn_in: int = 10
  batch_size: int = 128
  steps: int = 1000
  augment: bool = True
  per_location_normalize: bool = False
  label_smoothing: float = 0.0
  average_decay: float | None = None
  precision: Literal["float32", "bfloat16"] = "float32"
  seed: int = 0
  evaluate_every: int = 100
  checkpoint_every: int = 500
  contrast: tuple[str, ...] = ()
  out: str | None = None
  resume: bool = False

  @property
  def optimizer_settings(self) -> OptimizerSettings:
    """The fields that are the optimiser's."""
    names = [field.name for field in dataclasses.fields(OptimizerSettings)]
    given = {name: getattr(self, name) for name in names if hasattr(self, name)}
    return OptimizerSettings(self.optimizer, **given)


DIGITS = Config(
  data="digits",
  network="mlp",
  depth=100,
  width=256,
  optimizer="adam",
  learning_rate=1e-4,
  warmup_steps=10,
  steps=200,
  augment=False,
  per_location_normalize=True,
  evaluate_every=50,
  checkpoint_every=100,
  contrast=("mlp-eoc",),
)

MNIST = Config(
  data="mnist",
  network="cifar_resnet20",
  learning_rate=1e-4,
  inverse_every=20,
  eta=0.8,
  steps=400,
)

CIFAR10 = Config(
  data="cifar10",
  network="cifar_resnet20",
  learning_rate=1e-4,
  warmup_steps=50,
  factors_every=4,
  inverse_every=20,
  eta=0.8,
  steps=2000,
  evaluate_every=250,
)

CIFAR100 = dataclasses.replace(CIFAR10, data="cifar100")

# Batch 1024, 90 epochs, 5 epochs of warm-up: the configuration that the authors of
# TAT released for K-FAC.
IMAGENET = Config(
  data="imagenet",
  network="resnet50",
  learning_rate=3e-4,
  warmup_steps=6255,
  batch_size=1024,
  steps=112_590,
  label_smoothing=0.1,
  dropout_rate=0.2,
  evaluate_every=2502,
  checkpoint_every=1251,
)

CONFIGS = {
  "digits": ("a 100-layer MLP on scikit-learn's digits, on a CPU in a minute", DIGITS),
  "mnist": ("a 20-layer convnet without shortcuts on MNIST", MNIST),
  "cifar10": ("a 20-layer convnet without shortcuts on CIFAR-10", CIFAR10),
  "cifar100": ("the same on CIFAR-100", CIFAR100),
  "imagenet": ("vanilla ResNet-50 on ImageNet, as in the TAT paper", IMAGENET),
}
