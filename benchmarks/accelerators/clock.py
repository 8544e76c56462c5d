"""Seconds of steps on a device, which runs ahead of the host."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass
class Program:
  """A compiled step that takes and returns what it carries.

  Attributes:
    step: carry -> carry.
    carry: before the next step.
    seconds: of a step, one number for each `run`.
  """

  step: Callable[[Any], Any]
  carry: Any
  seconds: list[float] = dataclasses.field(default_factory=list)

  def run(self, steps: int) -> None:
    """So many steps; the host waits for the last alone."""
    start = time.perf_counter()
    for _ in range(steps):
      self.carry = self.step(self.carry)
    jax.block_until_ready(self.carry)
    self.seconds.append((time.perf_counter() - start) / steps)

  @property
  def milliseconds(self) -> float:
    """Of a step, the median."""
    return 1000 * statistics.median(self.seconds)


def in_turn(programs: list[Program], steps: int, repeats: int) -> None:
  """Each program warms up, and then all take turns, so that ratios are of the same minutes."""
  for program in programs:
    program.run(2)
    program.seconds.clear()
  for _ in range(repeats):
    for program in programs:
      program.run(steps)


def compiled(step: Callable, *arguments, **static) -> tuple[Callable, float, float]:
  """A jitted function for these arguments; its compilation in seconds, its memory in bytes."""
  start = time.perf_counter()
  program = step.lower(*arguments, **static).compile()
  seconds = time.perf_counter() - start
  memory = program.memory_analysis()
  # Donated arguments lie where the results go.
  needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
  return program, seconds, needed + memory.output_size_in_bytes - memory.alias_size_in_bytes
