"""Transformers by name: joint planning by default, and the baselines that it is held against."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from tatnet.attention.joint import attention_schedule
from tatnet.attention.published import exponential_schedule, uniform_schedule
from tatnet.nets.attention import CutSkipStart, IdentityStart, MimeticStart, SoftmaxStart
from tatnet.nets.transformer import Transformer
from tatnet.nets.transformer_plan import default_step
from tatnet.nets.vision import VisionTransformer
from tatnet.network.nodes import Topology
from tatnet.shaping.tat import TAT
from tatnet.shaping.transform import transform_activation

TRANSFORMERS: Mapping[str, type] = MappingProxyType(
  {"transformer": Transformer, "vision_transformer": VisionTransformer}
)

_NORMALISED = {"activation": jax.nn.gelu, "normalization": "layer", "nonlinear": 1}

# What distinguishes each baseline from a transformer whose attention is planned with its layers.
TRANSFORMER_BASELINES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
  {
    # As they are usual: normalisation in front of every branch, ordinary sums.
    "prenorm": {**_NORMALISED, "attention": SoftmaxStart(), "shortcut_weight": None},
    # Softmax attention with shaped dense parts, without shortcuts and normalisation.
    "vanilla": {"attention": SoftmaxStart()},
    # He et al.: attention planned alone.
    "spa": {"attention": "exponential"},
    "uspa": {"attention": "uniform"},
    "vskipinit": {"attention": IdentityStart(centred=False)},
    # Noci et al., He & Hofmann.
    "shaped": {"attention": IdentityStart()},
    # Ji et al., with both readings of the scale of the logits.
    "cutskip": {**_NORMALISED, "attention": CutSkipStart()},
    "cutskip_undivided": {**_NORMALISED, "attention": CutSkipStart(divided=False)},
    "mimetic": {**_NORMALISED, "attention": MimeticStart()},
  }
)


@dataclasses.dataclass(frozen=True)
class Solved:
  """What a transformer is built with.

  Attributes:
    settings: arguments of its class but the number of classes.
    topology: what the activation was solved for; None if it is a function as it is.
  """

  settings: dict[str, Any]
  topology: Topology | None


def solved(kind: type, baseline: str, options: Mapping[str, Any]) -> Solved:
  """Solves for the activation, and plans attention, of a named transformer.

  Args:
    kind: its class.
    baseline: one of `TRANSFORMER_BASELINES`, or empty.
    options: arguments of the class, with `step`, `input_cosine` and `method` besides; they come
      before what the baseline says.

  Raises:
    ValueError: options that do not go together, or a target out of reach.
    TypeError: an option that is missing or not known.
  """
  defaults = {"activation": "leaky_relu", "causal": kind is Transformer}
  settings = defaults | dict(TRANSFORMER_BASELINES.get(baseline, {})) | dict(options)
  if kind is VisionTransformer and settings.pop("causal") is not False:
    raise TypeError(
      "create got causal for a vision transformer, which is an encoder; leave it out."
    )
  missing = [n for n in ("depth", "width", "heads", "context") if n not in settings]
  if missing:
    raise TypeError(
      f"create got no {', '.join(missing)} for a transformer; expected them as options."
    )
  depth, causal = settings["depth"], settings.get("causal", False)
  step, cosine = settings.pop("step", None), settings.pop("input_cosine", 0.0)
  activation = settings["activation"]
  method = settings.pop("method", TAT(eta=0.5) if isinstance(activation, str) else None)
  is_joint = "attention" not in settings
  if not is_joint and (step is not None or cosine):
    raise ValueError(
      f"create got step={step} and input_cosine={cosine} for a network whose attention is not planned with"
      " its layers; expected them without a baseline and without attention=..."
    )
  if is_joint and step is None:
    step = default_step(depth)
  topology = None
  if is_joint or method is not None:
    described = {n: settings[n] for n in ("nonlinear", "shortcut_weight") if n in settings}
    topology = kind.topology(depth, step=step if is_joint else 0.0, **described)
  if method is not None:
    activation = settings["activation"] = transform_activation(activation, topology, method)
  if is_joint:
    settings["attention"] = attention_schedule(
      topology, activation, causal=causal, input_cosine=cosine
    )
  elif settings["attention"] == "exponential":
    length = None if causal else settings["context"]
    settings["attention"] = exponential_schedule(depth, causal=causal, tokens=length)
  elif settings["attention"] == "uniform":
    settings["attention"] = uniform_schedule(depth, causal=causal)
  return Solved(settings, topology)
