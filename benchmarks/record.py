"""What the benchmarks share: fresh processes, the machine, budgets, and the JSON file."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).parent


def arguments(name: str, description: str) -> argparse.ArgumentParser:
  """A parser with the options that every benchmark has."""
  parser = argparse.ArgumentParser(description=description.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, default=FOLDER / "results" / f"{name}.json")
  return parser


def in_fresh_process(code: str, *args: str) -> Any:
  """What the code prints last, as JSON, from a new interpreter that stands in this folder."""
  child = subprocess.run(
    [sys.executable, "-c", code, *args], cwd=FOLDER, capture_output=True, text=True, check=False
  )
  if child.returncode:
    raise RuntimeError(f"{code} failed:\n{child.stderr}")
  return json.loads(child.stdout.splitlines()[-1])


def median_and_spread(values: Sequence[float]) -> str:
  """As text: the median, and the smallest and largest value."""
  return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def verdict(what: str, value: float, budget: float, *, at_least: bool = False) -> dict:
  """One budget and what became of it, printed and for the JSON: values up to it, or from it on."""
  met = value >= budget if at_least else value <= budget
  found = {"what": what, "value": value, "budget": budget, "met": met}
  print(f"  {line(found)}")
  return found


def line(verdict: dict) -> str:
  """A verdict as text."""
  said = "pass" if verdict["met"] else "MISS"
  return f"{verdict['what']}: {verdict['value']:.3g}, budget {verdict['budget']:g}: {said}"


def machine() -> dict[str, Any]:
  """The machine and the versions that figures belong to."""
  import jax

  import tatnet

  return {
    "machine": platform.machine(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "device": jax.devices()[0].device_kind,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "tatnet": tatnet.__version__,
  }


def write(out: pathlib.Path, rows: Any, verdicts: Sequence[dict] = (), **settings: Any) -> None:
  """Writes rows and verdicts with their settings, the machine and the versions."""
  out.parent.mkdir(parents=True, exist_ok=True)
  contents = {"machine": machine(), **settings, "verdicts": list(verdicts), "rows": rows}
  out.write_text(json.dumps(contents, indent=1))
  print(f"Written: {out}")
