"""Which values of a network all paths to another lead through."""

import functools
from collections.abc import Collection, Sequence


def immediate_dominators(sources: Sequence[Collection[int]]) -> list[int]:
  """For each value the last one before it through which all paths from value 0 lead.

  Args:
    sources: of each value, all before it; those of value 0 are empty.
  """
  before, depth = [0] * len(sources), [0] * len(sources)
  for number, own in enumerate(sources):
    if own:
      common = functools.reduce(functools.partial(_meeting, before, depth), own)
      before[number], depth[number] = common, depth[common] + 1
  return before


def _meeting(before: list[int], depth: list[int], a: int, b: int) -> int:
  while a != b:
    if depth[a] >= depth[b]:
      a = before[a]
    else:
      b = before[b]
  return a


def dominates(ancestor: int, number: int, before: list[int]) -> bool:
  while number > ancestor:
    number = before[number]
  return number == ancestor
