"""The numbers of a run, checked before it begins."""

from typing import Any

from tatnet.optim.settings import BELOW_ONE, COUNT, INTERVAL, NOT_NEGATIVE, Rule, check_settings


def _optional(rule: Rule) -> Rule:
  return rule._replace(expected=f"{rule.expected}, or None", optional=True)


# Those of the activation and the shortcuts are checked by what takes them.
RULES = {
  "steps": INTERVAL,
  "batch_size": INTERVAL,
  "evaluate_every": INTERVAL,
  "checkpoint_every": INTERVAL,
  "stop_after": _optional(INTERVAL),
  "image_size": _optional(INTERVAL),
  "workers": _optional(COUNT),
  "depth": _optional(INTERVAL),
  "width": _optional(INTERVAL),
  "heads": _optional(INTERVAL),
  "context": _optional(INTERVAL),
  "patch": _optional(INTERVAL),
  "query_scale": _optional(NOT_NEGATIVE),
  "dropout_rate": BELOW_ONE,
  "label_smoothing": BELOW_ONE,
  "average_decay": _optional(BELOW_ONE),
  "seed": COUNT,
  "num_processes": _optional(INTERVAL),
  "process_id": _optional(COUNT),
}
_FLAGS = ("steps", "batch_size", "evaluate_every", "checkpoint_every", "stop_after")


def check_numbers(config: Any) -> None:
  """Raises TypeError or ValueError for what is no number, or none that a run can have."""
  for name in _FLAGS:
    value = getattr(config, name)
    if isinstance(value, int) and not isinstance(value, bool) and -(10**9) < value < 1:
      raise ValueError(f"--{name.replace('_', '-')} {value}; expected at least 1.")
  check_settings({name: (getattr(config, name), rule) for name, rule in RULES.items()})


def rate_of(contrast: str, text: str) -> float:
  """The learning rate of a contrast.

  Raises:
    ValueError: it is no number.
  """
  try:
    return float(text)
  except ValueError:
    raise ValueError(
      f"--contrast {contrast}: the learning rate is {text!r}; expected a number behind the second"
      " colon, as in resnet50-bn:sgd:0.2."
    ) from None
