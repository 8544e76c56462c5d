"""The benchmarks that have a budget, by one command: every budget with pass or MISS.

    python benchmarks/run.py [names] [--quick] [--data-dir DATA]

Runs the scripts one after the other, prints what they print, and writes
``results/all.json`` with the contents of their JSON files, verdicts among them. Some
take many minutes; ``--quick`` is passed on to those that know it. input_pipeline is
left out without ``--data-dir``.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import record

FOLDER = pathlib.Path(__file__).parent
SCRIPTS = {
  # name: arguments; {data} is the folder of the data, without which the script is left out
  "solve": [],
  "trace": [],
  "trace_battery": [],
  "attention": [],
  "networks": [],
  "kfac": [],
  "train_loop": [],
  "input_pipeline": ["--data-dir", "{data}"],
}


def run(name: str, quick: bool, data_dir: pathlib.Path | None) -> dict:
  """Runs a script and returns what is in its JSON file; a failure is a budget missed."""
  path = FOLDER / f"{name}.py"
  arguments = [argument.format(data=data_dir and data_dir.absolute()) for argument in SCRIPTS[name]]
  if quick and "--quick" in path.read_text():
    arguments.append("--quick")
  print(f"== {name} {' '.join(arguments)}", flush=True)
  out = FOLDER / "results" / f"{name}.json"
  out.unlink(missing_ok=True)
  code = subprocess.run([sys.executable, "-u", str(path), *arguments], check=False).returncode
  found = json.loads(out.read_text()) if out.exists() else {"verdicts": []}
  if code:
    found["verdicts"].append({"what": "exit status", "value": code, "budget": 0, "met": False})
  return found


def main():
  """Runs, collects, sums up."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", help=f"of {', '.join(SCRIPTS)}; all if not given")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--data-dir", type=pathlib.Path)
  args = parser.parse_args()
  unknown = set(args.names) - set(SCRIPTS)
  if unknown:
    parser.error(f"{', '.join(unknown)}; expected some of {', '.join(SCRIPTS)}")
  collected = {}
  for name in args.names or SCRIPTS:
    if args.data_dir is None and "{data}" in SCRIPTS[name]:
      print(f"== {name}: left out, no --data-dir")
      continue
    collected[name] = run(name, args.quick, args.data_dir)
  out = FOLDER / "results" / "all.json"
  out.parent.mkdir(exist_ok=True)
  out.write_text(json.dumps(collected, indent=1))
  print("== budgets")
  verdicts = [(name, found) for name in collected for found in collected[name]["verdicts"]]
  for name, found in verdicts:
    print(f"{name:15} {record.line(found)}")
  missed = sum(not found["met"] for _, found in verdicts)
  print(f"{missed} missed. Written: {out}")


if __name__ == "__main__":
  main()
