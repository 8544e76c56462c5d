"""Networks by name: an architecture, and optionally one of the papers' baselines.

``"resnet50"`` is the architecture, by default shaped by TAT and without shortcuts;
``"resnet50-bn"`` is the same architecture in the configuration of a baseline.
"""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.layer.record import as_transformed
from tatnet.nets.cifar import CifarResNet, PreActResNet
from tatnet.nets.fast_init import fast_init
from tatnet.nets.gaussian import HeNormal
from tatnet.nets.identity import IdentityResNet
from tatnet.nets.mlp import MLP
from tatnet.nets.options import NetworkOptions
from tatnet.nets.prelu import PReLU
from tatnet.nets.resnet import BLOCKS, ResNet
from tatnet.nets.transformer_registry import TRANSFORMER_BASELINES, TRANSFORMERS, solved
from tatnet.network.nodes import Topology
from tatnet.shaping.eoc import EOC
from tatnet.shaping.tat import TAT
from tatnet.shaping.transform import transform_activation


@dataclasses.dataclass(frozen=True)
class _Architecture:
  """A network class, the depths that have a name, and settings of its own."""

  network: type[hk.Module]
  depths: tuple[int, ...] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  of_baselines: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


_DEFAULTS = {"activation": "leaky_relu", "shortcut_weight": 0.0}

_ARCHITECTURES = {
  "mlp": _Architecture(MLP),
  "resnet": _Architecture(ResNet, tuple(BLOCKS)),
  "cifar_resnet": _Architecture(
    # He et al. count no parameters on the shortcuts for CIFAR.
    CifarResNet,
    (20, 32, 44, 56, 110),
    of_baselines={"bn": {"shortcut": "pool"}},
  ),
  "preact_resnet": _Architecture(PreActResNet, tuple(BLOCKS)),
  "identity_resnet": _Architecture(
    IdentityResNet, (56, 34), settings={"activation": jax.nn.relu, "shortcut_weight": None}
  ),
  **{name: _Architecture(network) for name, network in TRANSFORMERS.items()},
}

# What distinguishes each baseline of the papers from a network shaped by TAT.
BASELINES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
  {
    # He et al.: batch normalisation and ordinary sums.
    "bn": {
      "activation": jax.nn.relu,
      "normalization": "batch",
      "shortcut_weight": None,
      "version": 1,
    },
    # Mehmeti-Goepel & Wand: the same without the sums.
    "noshort": {
      "activation": jax.nn.relu,
      "normalization": "batch",
      "shortcut_weight": 0.0,
      "version": 1,
    },
    # The edge of chaos: He initialisation without normalisation and shortcuts.
    "eoc": {"activation": "relu", "method": EOC(), "shortcut_weight": 0.0},
    # The TAT paper's rescaled ResNet: normalised sums, the activation as it is.
    "rescaled": {"activation": "relu", "method": EOC(), "shortcut_weight": 0.8},
    # De & Smith: every branch behind a trainable factor that starts at 0.
    "skipinit": {"activation": jax.nn.relu, "shortcut_weight": None, "residual_gain": 0.0},
    # He et al.: the negative slope is trained.
    "prelu": {"activation": PReLU(0.25), "w_init": HeNormal(0.25), "shortcut_weight": 0.0},
  }
)


@dataclasses.dataclass(frozen=True)
class Network:
  """A network that is ready to use: what `create` returns.

  Attributes:
    name: as given to `create`.
    init: ``(key, inputs, is_training=True) -> (params, state)``, a pure function.
    apply: ``(params, state, key, inputs, is_training=False) -> (logits, state)``.
    activation: the solved activation, or the function given.
    topology: what the activation was solved for; None for ordinary sums.
    module: its Haiku class, for `hk.mixed_precision.set_policy`.
    num_classes: size of the output.
    options: the other arguments that the network is built with.
  """

  name: str
  init: Callable
  apply: Callable
  activation: Callable
  topology: Topology | None
  module: type[hk.Module]
  num_classes: int
  options: Mapping[str, Any]

  def forward(self, x: jax.Array, activation: Callable) -> jax.Array:
    """Its Haiku function, untransformed, as `tatnet.trace` and the kernel report take it.

    Example:
      >>> network = tatnet.nets.create("mlp", num_classes=10, width=64, depth=20)
      >>> tatnet.trace(network.forward, jnp.ones([2, 8])).num_nonlinear
      20
    """
    return self.module(num_classes=self.num_classes, **{**self.options, "activation": activation})(
      x
    )

  def initialize(self, key: jax.Array, inputs: jax.Array | jax.ShapeDtypeStruct):
    """`init`, compiled and run.

    Args:
      key: a JAX random key.
      inputs: a batch, or its shape and dtype; the values do not matter.

    Returns:
      ``(params, state)``.
    """

    def init(key):
      return self.init(key, jnp.zeros(inputs.shape, inputs.dtype))

    return jax.jit(init)(key)


def names() -> list[str]:
  """What `create` knows by name.

  CIFAR ResNets of any depth 6n + 2 are built, whether listed or not.

  Example:
    >>> "resnet50" in tatnet.nets.names(), "cifar_resnet110-noshort" in tatnet.nets.names()
    (True, True)
  """
  plain = [
    f"{stem}{depth}"
    for stem, entry in _ARCHITECTURES.items()
    for depth in entry.depths or ("",)
    if stem not in TRANSFORMERS
  ]
  return [
    name + suffix
    for every, baselines in ((plain, BASELINES), (TRANSFORMERS, TRANSFORMER_BASELINES))
    for name in every
    for suffix in ("", *(f"-{key}" for key in baselines))
  ]


def create(name: str, num_classes: int, **options: Any) -> Network:
  """Builds a network with its solved activation and the initialiser that goes with it.

  Args:
    name: one of `names()`: an architecture, or an architecture and a baseline.
    num_classes: size of the output.
    **options: come before what the baseline says.
      activation: name of an activation to be transformed, or a function of arrays.
      method: `TAT`, `DKS` or `EOC`. By default ``TAT()`` for a name; a function is
      taken as it is.
      The others are those of the network: `Options`, and `version`, or `width` and
      `depth`. Of a transformer, `depth`, `width`, `heads` and `context` (and `patch`) are needed;
      `step` is that of its attention layers, by default such that attention alone brings
      cosines from 0 to 0.2, and `input_cosine` that of the tokens; the method is
      ``TAT(0.5)`` by default.

  Returns:
    A `Network`.

  Raises:
    ValueError: an unknown name, options that do not go together, or a target that
      the network cannot reach.
    TypeError: an option that the network does not have, or lacks.

  Example:
    >>> network = tatnet.nets.create("resnet50", num_classes=1000, method=tatnet.TAT(0.9))
    >>> round(network.activation.negative_slope, 6), network.topology
    (0.425907, 49 x nonlinear)
    >>> images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    >>> params, state = jax.eval_shape(network.init, jax.random.key(0), images)
    >>> len(params), len(state)
    (50, 0)
  """
  architecture, baseline, depth = _parse(name)
  if architecture.network in TRANSFORMERS.values():
    found = solved(architecture.network, baseline, options)
    return _built(name, architecture.network, num_classes, found.settings, found.topology)
  of_topology = tuple(inspect.signature(architecture.network.topology).parameters)
  settings = _DEFAULTS | dict(architecture.settings)
  if baseline:
    suits = {"method", *of_topology, *NetworkOptions.__annotations__}
    settings |= {key: value for key, value in BASELINES[baseline].items() if key in suits}
    settings |= architecture.of_baselines.get(baseline, {})
  settings |= depth | options
  activation = settings.pop("activation")
  method = settings.pop("method", TAT() if isinstance(activation, str) else None)

  topology = None
  if settings["shortcut_weight"] is not None or method is not None:
    described = {key: settings[key] for key in of_topology if key in settings}
    topology = architecture.network.topology(**described)
  if method is not None:
    activation = transform_activation(activation, topology, method)
  elif isinstance(activation, str):
    activation = as_transformed(activation)
  settings["activation"] = activation
  return _built(name, architecture.network, num_classes, settings, topology)


def _built(
  name: str, module: type[hk.Module], num_classes: int, settings: dict, topology: Topology | None
) -> Network:
  """The network of a class and its arguments."""

  def forward(x, is_training=False):
    return module(num_classes=num_classes, **settings)(x, is_training)

  # Settings that do not go together are refused here, not at the first use.
  hk.transform_with_state(lambda: module(num_classes=num_classes, **settings)).init(None)
  network = hk.transform_with_state(forward)
  draw = fast_init(forward)

  def init(key, x, is_training=True):  # batch normalisation makes its state while training
    return draw(key, x, is_training)

  return Network(
    name,
    init,
    network.apply,
    settings["activation"],
    topology,
    module,
    num_classes,
    MappingProxyType(settings),
  )


def architecture_of(name: str) -> type[hk.Module]:
  """The class of a named network, whose signature tells what it takes.

  Args:
    name: one of `names()`.

  Raises:
    ValueError: it is none of them.

  Example:
    >>> tatnet.nets.architecture_of("resnet50-bn").__name__
    'ResNet'
  """
  return _parse(name)[0].network


def _parse(name: str) -> tuple[_Architecture, str, dict[str, int]]:
  """Architecture, baseline and depth of a name."""
  full, _, baseline = name.partition("-")
  stem, depth = re.fullmatch(r"(.*?)(\d*)", full).groups()
  entry = _ARCHITECTURES.get(stem)
  baselines = TRANSFORMER_BASELINES if stem in TRANSFORMERS else BASELINES
  is_known = not baseline or baseline in baselines
  if entry is None or bool(depth) != bool(entry.depths) or not is_known:
    close = difflib.get_close_matches(name, names(), n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ValueError(
      f"create got the network {name!r}; expected one of tatnet.nets.names(): an architecture such"
      f" as 'resnet50', alone or with a baseline ({', '.join('-' + key for key in baselines)})."
      f"{hint}"
    )
  return entry, baseline, {"depth": int(depth)} if depth else {}
