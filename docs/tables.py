"""The tables of the pages, made from the JSON of their runs: `python docs/tables.py`.

A table stands behind a comment ``<!-- table NAME -->``, which names a function here.
"""

import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator

DOCS = pathlib.Path(__file__).parent
RESULTS = DOCS / "results"
MARKED = re.compile(r"(<!-- table (\w+) -->\n)((?:\|.*\n)*)")
sys.path.insert(0, str(DOCS.parent / "benchmarks"))


def rows_of(name: str) -> list[dict]:
  """The runs of a JSON file of the benchmarks."""
  return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


def adaptive_kfac() -> Iterator[str]:
  """Adaptive K-FAC by problem, from every seed."""
  problems = {
    "autoencoder": (
      "autoencoder of eight layers with a bottleneck of 12, MNIST at 14x14, batch 500",
      "28",
    ),
    "tanh_mlp": (
      "MLP of twenty tanh layers of 64, not shaped, MNIST at 14x14, batch 256",
      "0.077",
    ),
    "regression": (
      "regression by thirty tanh layers of 48, shaped by TAT, no shortcuts, batch 128",
      "",
    ),
  }
  rows = [row for row in rows_of("adaptive_kfac") if row["optimizer"] == "adaptive K-FAC"]
  rows.sort(key=lambda row: row["seed"])
  yield "| problem | steps | start | halfway | end | wanted |"
  yield "|---|---|---|---|---|---|"
  for task, (what, wanted) in problems.items():
    losses = [row["losses"] for row in rows if row["task"] == task]
    places = (0, len(losses[0]) // 2, -1)
    cells = [", ".join(f"{run[place]:.3g}" for run in losses) for place in places]
    steps = 10 * (len(losses[0]) - 1)
    yield f"| {what} | {steps} | {' | '.join(cells)} | {wanted} |"


def adaptive_kfac_rivals() -> Iterator[str]:
  """The best setting of every optimiser on the regression, from the first seed."""
  rows = [
    row for row in rows_of("adaptive_kfac") if (row["task"], row["seed"]) == ("regression", 0)
  ]
  best: dict[str, dict] = {}
  for row in rows:
    name = (
      row["optimizer"] if row["optimizer"].startswith("adaptive") else row["optimizer"].split()[0]
    )
    if name not in best or row["losses"][-1] < best[name]["losses"][-1]:
      best[name] = row
  yield "| optimiser | best setting | end |"
  yield "|---|---|---|"
  for name, row in sorted(best.items(), key=lambda pair: pair[1]["losses"][-1]):
    setting = row["optimizer"].removeprefix(name).strip().replace(" / ", " over ")
    yield f"| {name} | {setting} | {row['losses'][-1]:.2g} |"


def transformers_digits() -> Iterator[str]:
  """Vision transformers on the digits."""
  from transformers import table  # of the benchmarks

  rows = rows_of("transformers_digits")
  for depth in sorted({row["depth"] for row in rows}):
    yield from table("digits", rows, depth)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
  function.__name__: function
  for function in (adaptive_kfac, adaptive_kfac_rivals, transformers_digits)
}


def with_tables(page: str) -> str:
  """A page with its tables made anew."""
  return MARKED.sub(lambda m: m[1] + "".join(f"{line}\n" for line in TABLES[m[2]]()), page)


def main():
  """Writes every page that has a table."""
  for path in sorted(DOCS.rglob("*.md")):
    page = path.read_text()
    if (made := with_tables(page)) != page:
      path.write_text(made)
      print(f"Written: {path}")


if __name__ == "__main__":
  main()
