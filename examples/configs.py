"""One config per run. Every field can be overridden on the command line."""

import dataclasses
import json
from typing import Annotated, Any, ClassVar, Literal

import tyro
from checks import check_numbers, rate_of

from tatnet.optim.settings import NOT_NEGATIVE, Rule
from tatnet.training import OptimizerSettings
from tatnet.training.optimizers import Name


@dataclasses.dataclass(frozen=True)
class Optimizer(OptimizerSettings):
  """The optimiser of a run; its fields are flags of their own names.

  Attributes:
    name: name of the optimiser.
    learning_rate: at the end of the warm-up; if not given, that of LEARNING_RATES for
      the data and the optimiser.
  """

  _RULES: ClassVar[dict[str, Rule]] = OptimizerSettings._RULES | {
    "learning_rate": Rule(NOT_NEGATIVE.holds, "a number of at least 0, or None", optional=True)
  }

  name: Annotated[Name, tyro.conf.arg(name="optimizer")] = "kfac"
  learning_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Config:
  """A training run.

  Attributes:
    data: digits, mnist, cifar10, cifar100, imagenet; text, the source of Python's standard
      library by characters; or the path of a folder with train and test, and in both one
      sub-folder of JPEG or PNG images for each class.
    data_dir: folder of prepared TensorFlow Datasets; their own default if not given.
    fake_data: random images in place of the data, to try or to time a run.
    image_size: height and width that imagenet and folders are cropped to; if not
      given, 224 for imagenet, and for folders the size of their images, up to 224.
    workers: processes that decode the training images of imagenet and folders; 0 for
      threads. Threads on up to 8 cores if not given, else processes.
    network: a name of tatnet.nets.names(); with a baseline, such as resnet50-bn, it
      has its own activation, method and shortcuts.
    depth: hidden layers of an mlp, blocks of a transformer, or layers of another network
      in place of the name's.
    width: units of an mlp, features of a transformer's tokens, or multiplier of a CIFAR
      ResNet's channels.
    heads: of a transformer.
    context: tokens of a transformer: characters of text, or patches of an image.
    patch: height and width of a vision transformer's patches, in pixels.
    query_scale: of the queries at the start of attention that starts as planned; 0.01 for
      either K-FAC, which cannot move keys from queries of 0, and else 0 if not given.
    method: how the activation is shaped; none takes it as it is.
    activation: name of the activation.
    eta: target of TAT for leaky_relu.
    tau: target of TAT for smooth activations.
    zeta: target of DKS.
    shortcut_weight: 0 for no shortcuts; see tatnet.nets.Options.
    shortcut: what it is where the shape changes; the network's own if not given.
    normalization: of the network; none if not given.
    dropout_rate: in front of the last layer.
    optimizer_settings: the optimiser, and its schedule.
    batch_size: global, over all devices; a multiple of their number.
    steps: length of the run.
    augment: whether images are shifted, and flipped where that makes sense.
    per_location_normalize: PLN of the inputs.
    label_smoothing: of the training loss.
    average_decay: of the moving average that is evaluated; none if not given.
    precision: of the computation; parameters and factors stay float32.
    stop_after: steps to take before stopping and saving as by Ctrl-C, for jobs of
      limited time.
    seed: of everything.
    evaluate_every: steps.
    checkpoint_every: steps; a checkpoint comes before every evaluation too.
    contrast: networks to train after this one for comparison. Behind a colon each may
      have another optimiser, then with its learning rate of LEARNING_RATES or with the
      one behind another colon: resnet50-bn:sgd:0.2.
    out: folder of the run; runs/<data>-<network> if not given.
    resume: continue the run in that folder.
    force: continue it with another network or activation too.
    coordinator: host:port of the first of several processes, or auto on a cluster that
      JAX knows.
    num_processes: how many there are.
    process_id: number of this one, from 0.
  """

  data: str = "digits"
  data_dir: str | None = None
  fake_data: bool = False
  image_size: int | None = None
  workers: int | None = None
  network: str = "mlp"
  depth: int | None = None
  width: int | None = None
  heads: int | None = None
  context: int | None = None
  patch: int | None = None
  query_scale: float | None = None
  method: Literal["tat", "dks", "eoc", "none"] = "tat"
  activation: str = "leaky_relu"
  eta: float = 0.9
  tau: float = 0.3
  zeta: float = 1.5
  shortcut_weight: float | None = 0.0
  shortcut: Literal["projection", "pool", "pool+projection"] | None = None
  normalization: Literal["batch", "layer", "weight"] | None = None
  dropout_rate: float = 0.0
  optimizer_settings: Annotated[Optimizer, tyro.conf.arg(name="")] = Optimizer()
  batch_size: int = 128
  steps: int = 1000
  stop_after: int | None = None
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
  force: bool = False
  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None

  @property
  def optimizer(self) -> str:
    """Name of the optimiser."""
    return self.optimizer_settings.name

  @property
  def learning_rate(self) -> float | None:
    """At the end of the warm-up."""
    return self.optimizer_settings.learning_rate

  def replaced(self, **changes: Any) -> "Config":
    """With other values of some flags, the optimiser's among them."""
    if "optimizer" in changes:
      changes["name"] = changes.pop("optimizer")
    names = {field.name for field in dataclasses.fields(Optimizer)} & changes.keys()
    settings = {name: changes.pop(name) for name in names}
    optimizer = dataclasses.replace(self.optimizer_settings, **settings)
    return dataclasses.replace(self, optimizer_settings=optimizer, **changes)

  def flags(self) -> dict[str, Any]:
    """The value of every flag, for JSON."""
    values = dataclasses.asdict(self)
    settings = values.pop("optimizer_settings")
    values |= {"optimizer": settings.pop("name"), **settings}
    return json.loads(json.dumps(values))

  def resolved(self) -> "Config":
    """With the learning rate of the data and the optimiser, where none is given.

    Raises:
      TypeError: something that is no number in the place of one.
      ValueError: a number that no run can have, or an unknown optimiser.
    """
    check_numbers(self)
    if self.learning_rate is not None:
      return self
    if self.optimizer == "adaptive-kfac":
      return self.replaced(learning_rate=0.0)  # it finds its own
    rates = LEARNING_RATES.get(self.data, LEARNING_RATES["folder"])
    if self.optimizer not in rates:
      raise ValueError(
        f"optimizer {self.optimizer!r}; expected one of {', '.join((*rates, 'adaptive-kfac'))}."
      )
    return self.replaced(learning_rate=rates[self.optimizer])

  def contrasted(self, contrast: str) -> "Config":
    """The config of one of `contrast`."""
    network, optimizer, rate = [*contrast.split(":"), "", ""][:3]
    other = {"network": network, "contrast": ()}
    if optimizer and (rate or optimizer != self.optimizer):
      other |= {"optimizer": optimizer, "learning_rate": rate_of(contrast, rate) if rate else None}
    return self.replaced(**other)


# For batches of 64 to 128, and of 1024 for ImageNet. Those of folders are CIFAR's. ImageNet's for kfac and sgd are those that
# the authors of TAT released; the others learn, and are not tuned. K-FAC's belong to the damping of the config below: but for
# ImageNet they are 0.03 of it at most, which small batches bear too.
LEARNING_RATES = {
  "digits": {"sgd": 1e-3, "adam": 1e-4, "lars": 1.0, "kfac": 1e-4, "muon": 1e-3},
  "mnist": {"sgd": 0.01, "adam": 1e-3, "lars": 1.0, "kfac": 3e-4, "muon": 5e-3},
  "cifar10": {"sgd": 0.05, "adam": 1e-3, "lars": 1.0, "kfac": 3e-4, "muon": 5e-3},
  "cifar100": {"sgd": 0.05, "adam": 1e-3, "lars": 1.0, "kfac": 3e-4, "muon": 5e-3},
  "text": {"sgd": 0.05, "adam": 3e-3, "lars": 1.0, "kfac": 1e-4, "muon": 1e-2},
  "imagenet": {"sgd": 0.1, "adam": 1e-3, "lars": 4.0, "kfac": 3e-4, "muon": 5e-3},
}
LEARNING_RATES["folder"] = LEARNING_RATES["cifar10"]

DIGITS = Config(
  data="digits",
  network="mlp",
  depth=100,
  width=256,
  # The last two are for --optimizer kfac, which fits these data in forty steps: with the usual
  # damping of 1e-3 and inverses fifty steps old it then diverges.
  optimizer_settings=Optimizer("adam", warmup_steps=10, damping=1e-2, inverse_every=10),
  steps=200,
  augment=False,
  per_location_normalize=True,
  evaluate_every=100,
  checkpoint_every=100,
  contrast=("mlp-eoc",),
)

MNIST = Config(
  data="mnist",
  network="cifar_resnet8",
  optimizer_settings=Optimizer("muon", warmup_steps=20, damping=1e-2),
  eta=0.8,
  batch_size=64,
  steps=1400,
  augment=False,
  evaluate_every=1400,
  checkpoint_every=700,
)

# One epoch, so that three networks are a matter of minutes on a CPU.
CIFAR10 = Config(
  data="cifar10",
  network="cifar_resnet20",
  optimizer_settings=Optimizer(warmup_steps=20, damping=1e-2, factors_every=4, inverse_every=20),
  eta=0.8,
  batch_size=64,
  steps=780,
  evaluate_every=390,
  checkpoint_every=390,
  contrast=("cifar_resnet20-eoc:sgd:0.01", "cifar_resnet20-bn:sgd"),
)

CIFAR100 = CIFAR10.replaced(data="cifar100")

# Small images of one's own: the network of CIFAR-10, by an optimiser that needs no care.
FOLDER = Config(
  data="images",
  network="cifar_resnet20",
  optimizer_settings=Optimizer(
    "adam", warmup_steps=20, damping=1e-2, factors_every=4, inverse_every=20
  ),
  eta=0.8,
  batch_size=64,
  steps=2000,
  evaluate_every=200,
  checkpoint_every=200,
)

# Batch 1024, 90 epochs, 5 epochs of warm-up: the configuration that the authors of
# TAT released for K-FAC.
IMAGENET = Config(
  data="imagenet",
  network="resnet50",
  optimizer_settings=Optimizer(warmup_steps=6255),
  batch_size=1024,
  steps=112_590,
  label_smoothing=0.1,
  dropout_rate=0.2,
  evaluate_every=2502,
  checkpoint_every=1251,
)

_PLAIN_SGD = Optimizer("sgd", learning_rate=0.1, schedule="steps", nesterov=False)

# Hardt & Ma (arXiv 1611.04231), Section 4: a tenth at 30,000 and at 50,000 steps; where
# they stopped is not said.
IDENTITY_CIFAR10 = Config(
  data="cifar10",
  network="identity_resnet56",
  optimizer_settings=dataclasses.replace(
    _PLAIN_SGD, learning_rate=0.05, drops=(30 / 60, 50 / 60), weight_decay=1e-4
  ),
  steps=60_000,
  evaluate_every=1000,
  checkpoint_every=1000,
)

# Theirs for ImageNet: 0.94 times the learning rate every two epochs, 700,000 steps of
# 256 images. They took the steps asynchronously on six machines; here they are in turn.
IDENTITY_IMAGENET = Config(
  data="imagenet",
  network="identity_resnet34",
  optimizer_settings=dataclasses.replace(
    _PLAIN_SGD, drops=tuple(i / 70 for i in range(1, 70)), drop_factor=0.94
  ),
  batch_size=256,
  steps=700_000,
  evaluate_every=10_000,
  checkpoint_every=5000,
)

# MacDonald et al. (arXiv 2210.05371): 90 epochs of plain gradient descent,
# a fifth of the learning rate after every 30; they compare 0.02, 0.05, 0.1 and 0.2, with
# and without the modified shortcuts.
MODIFIED_CIFAR10 = Config(
  data="cifar10",
  network="preact_resnet18-bn",
  shortcut="pool+projection",
  optimizer_settings=dataclasses.replace(
    _PLAIN_SGD, drops=(1 / 3, 2 / 3), drop_factor=0.2, momentum=0.0, nesterov=True
  ),
  steps=35_100,
  evaluate_every=390,
  checkpoint_every=390,
)

# Tokens, and everything else that is said of a transformer, are the same for the contrasts.
TEXT = Config(
  data="text",
  network="transformer-shaped",
  depth=6,
  width=64,
  heads=4,
  context=64,
  eta=0.5,
  optimizer_settings=Optimizer("muon", warmup_steps=100),
  batch_size=12,
  steps=1500,
  evaluate_every=750,
  checkpoint_every=750,
  contrast=("transformer-prenorm", "transformer-vanilla"),
)

DIGITS_VIT = Config(
  data="digits",
  network="vision_transformer",
  depth=12,
  width=64,
  heads=4,
  context=16,
  patch=2,
  eta=0.5,
  optimizer_settings=Optimizer("adam", warmup_steps=20),
  batch_size=32,
  steps=300,
  augment=False,
  evaluate_every=100,
  checkpoint_every=100,
  contrast=("vision_transformer-prenorm", "vision_transformer-vanilla"),
)

CIFAR10_VIT = Config(
  data="cifar10",
  network="vision_transformer",
  depth=6,
  width=128,
  heads=4,
  context=64,
  patch=4,
  eta=0.5,
  optimizer_settings=Optimizer("adam", warmup_steps=100),
  batch_size=64,
  steps=780,
  evaluate_every=390,
  checkpoint_every=390,
  contrast=("vision_transformer-prenorm",),
)

CONFIGS = {
  "digits": ("a 100-layer MLP on scikit-learn's digits, on a CPU in a minute", DIGITS),
  "mnist": ("an 8-layer convnet without shortcuts on MNIST", MNIST),
  "cifar10": ("a 20-layer convnet without shortcuts on CIFAR-10, beside two baselines", CIFAR10),
  "cifar100": ("the same on CIFAR-100", CIFAR100),
  "folder": ("the same network by Adam on a folder of images of one's own, --data", FOLDER),
  "imagenet": ("vanilla ResNet-50 on ImageNet, as in the TAT paper", IMAGENET),
  "text": ("a causal transformer without shortcuts on Python's own source, by characters", TEXT),
  "digits-vit": ("a vision transformer of 12 blocks without shortcuts on the digits", DIGITS_VIT),
  "cifar10-vit": ("one of 6 blocks on CIFAR-10", CIFAR10_VIT),
  "cifar10-identity": ("the all-convolutional net of Hardt & Ma on CIFAR-10", IDENTITY_CIFAR10),
  "imagenet-identity": ("theirs on ImageNet", IDENTITY_IMAGENET),
  "cifar10-modified": ("ResNet-18 with the shortcuts of MacDonald et al.", MODIFIED_CIFAR10),
}
