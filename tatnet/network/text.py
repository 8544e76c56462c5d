"""The lines of a sequence, with runs of repeated parts written once."""

from collections.abc import Callable, Sequence
from typing import Any


def folded(parts: Sequence[Any], lines_of: Callable[[Any], list[str]]) -> list[str]:
  """Lines of parts in a row; equal ones, up to four that recur, are counted.

  Args:
    parts: what stands in a row.
    lines_of: the lines of one.
  """
  lines, start = [], 0
  while start < len(parts):
    period, times = max(
      ((p, _repeats(parts, start, p)) for p in range(1, 5)),
      key=lambda run: (run[0] * run[1] if run[1] > 1 else 1, -run[0]),
    )
    if times == 1:
      period = 1
    unit = [line for part in parts[start : start + period] for line in lines_of(part)]
    if times > 1:
      prefix = f"{times} x "
      unit = (
        [prefix + unit[0], *unit[1:]]
        if period == 1
        else [prefix + "("] + ["  " + line for line in unit] + [")"]
      )
    lines.extend(unit)
    start += period * times
  return lines


def _repeats(parts: Sequence[Any], start: int, period: int) -> int:
  unit, times = parts[start : start + period], 1
  while parts[start + times * period : start + (times + 1) * period] == unit:
    times += 1
  return times
