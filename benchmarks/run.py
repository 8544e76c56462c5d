"""All benchmarks by one command, and every budget with pass or MISS.

    python benchmarks/run.py [names] [--quick] [--data-dir ../shared/data]

Runs the scripts of this folder one after the other, prints what they print, and
writes ``results/all.json`` with the contents of their JSON files and all lines that
judge a budget. Some take many minutes; ``--quick`` is passed on to those that know it.
Those that read images or CIFAR-10 are left out without ``--data-dir``.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
SCRIPTS = {
  # name: arguments; {data} is the folder of the data, without which the script is left out
  "solve": [],
  "trace": [],
  "networks": [],
  "kfac": [],
  "train_loop": [],
  "input_pipeline": ["--data-dir", "{data}"],
}
JUDGED = re.compile(r"\b(pass|MISS)\b")


def run(name: str, quick: bool, data_dir: pathlib.Path | None) -> list[str]:
  """Runs a script and shows what it prints; returns the lines that judge a budget."""
  path = FOLDER / f"{name}.py"
  arguments = [argument.format(data=data_dir and data_dir.absolute()) for argument in SCRIPTS[name]]
  if quick and "--quick" in path.read_text():
    arguments.append("--quick")
  print(f"== {name} {' '.join(arguments)}", flush=True)
  judged = []
  command = [sys.executable, "-u", str(path), *arguments]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FOLDER.parent) as process:
    for line in process.stdout:
      print(line, end="", flush=True)
      if JUDGED.search(line):
        judged.append(line.strip())
  if process.returncode:
    judged.append(f"MISS: the script failed with exit status {process.returncode}")
  return judged


def main():
  """Runs, collects, sums up."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = [name for name in SCRIPTS if (FOLDER / f"{name}.py").exists()]
  parser.add_argument("names", nargs="*", help=f"of {', '.join(here)}; all if not given")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--data-dir", type=pathlib.Path)
  args = parser.parse_args()
  unknown = set(args.names) - set(here)
  if unknown:
    parser.error(f"{', '.join(unknown)}; expected some of {', '.join(here)}")
  collected = {}
  for name in args.names or here:
    if args.data_dir is None and "{data}" in SCRIPTS[name]:
      print(f"== {name}: left out, no --data-dir")
      continue
    results = FOLDER / "results" / f"{name}.json"
    results.unlink(missing_ok=True)
    judged = run(name, args.quick, args.data_dir)
    contents = json.loads(results.read_text()) if results.exists() else None
    collected[name] = {"judged": judged, "results": contents}
  out = FOLDER / "results" / "all.json"
  out.parent.mkdir(exist_ok=True)
  out.write_text(json.dumps(collected, indent=1))
  print("== budgets")
  for name, entry in collected.items():
    for line in entry["judged"]:
      print(f"{name:15} {line}")
  missed = sum("MISS" in line for entry in collected.values() for line in entry["judged"])
  print(f"{missed} missed. Written: {out}")


if __name__ == "__main__":
  main()
