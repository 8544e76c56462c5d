"""Time and memory of solving for an activation, and the residual of its conditions.

    python benchmarks/solve.py                 # the whole table
    python benchmarks/solve.py --only gelu     # one activation

Each (activation, method, topology) is solved in a fresh process, after `import
tatnet`, and then again for other targets in the same process ("warm": median of
nine different targets, so that no result is remembered). Writes JSON beside the
table. Budgets: 0.3 s fresh, 20 ms warm, 100 MB above import, residual 1e-10.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys

BUDGETS = {"fresh_s": 0.3, "warm_s": 0.02, "memory_mb": 100.0, "residual": 1e-10}
DEPTHS = (10, 49, 199)
RECTIFIERS = ("relu", "leaky_relu")

CHILD = """
import json, resource, statistics, sys, time
import tatnet
name, method, depth = sys.argv[1], sys.argv[2], int(sys.argv[3])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
make = {"tat": lambda t: tatnet.TAT(0.5 + 0.4 * t, 0.3 * t), "dks": lambda t: tatnet.DKS(1 + 0.5 * t),
        "eoc": lambda t: tatnet.EOC(0.0 if name in ("relu", "leaky_relu") else 0.2 * t)}[method]
def solve(t):
  start = time.perf_counter()
  try:
    act = tatnet.transform_activation(name, tatnet.chain(depth), make(t))
  except ValueError as error:
    return time.perf_counter() - start, None, str(error)
  return time.perf_counter() - start, act, None
fresh, act, error = solve(1.0)
memory = peak() - before
warm = [solve(1 - 0.03 * i)[0] for i in range(1, 10)]
out = {"activation": name, "method": method, "depth": depth, "fresh_s": fresh,
       "warm_s": statistics.median(warm), "warm_max_s": max(warm), "memory_mb": memory, "error": error}
if act is not None:
  local = act.local
  wanted = {"q": act.operating_q or 1.0}
  if method == "tat" and name == "leaky_relu":
    out["residual"] = abs(tatnet.cmap(tatnet.chain(depth), act, 0.0) - 0.9)
  else:
    network = tatnet.chain(depth)
    if method == "eoc":
      wanted |= {"c_slope": 1.0}
    elif method == "dks":
      wanted |= {"c0": 0.0, "c_slope": 1.5 ** (1 / depth)}
      wanted |= {} if name == "relu" else {"q_slope": 1.0}
    else:
      wanted |= {"q_slope": 1.0, "c_slope": 1.0, "c_curvature": 0.3 / depth}
    out["residual"] = max(abs(getattr(local, key) - value) for key, value in wanted.items())
print(json.dumps(out))
"""


def measure(name: str, method: str, depth: int) -> dict:
  """One row, from a fresh process."""
  child = subprocess.run(
    [sys.executable, "-c", CHILD, name, method, str(depth)],
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(child.stdout)


def main():
  """Measures, prints a table, writes JSON."""
  import jax

  import tatnet

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", nargs="*", default=tatnet.activation_names())
  parser.add_argument("--methods", nargs="*", default=["tat", "dks", "eoc"])
  parser.add_argument("--depths", nargs="*", type=int, default=DEPTHS)
  parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/solve.json")
  )
  args = parser.parse_args()
  machine = {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "machine": platform.machine(),
    "tatnet": tatnet.__version__,
  }
  rows = []
  print(
    f"{'activation':12} {'method':6} {'depth':>5} {'fresh':>9} {'warm':>9} {'memory':>8}  residual"
  )
  for name in args.only:
    for method in args.methods:
      for depth in args.depths:
        row = measure(name, method, depth)
        rows.append(row)
        residual = (
          f"{row['residual']:.1e}" if "residual" in row else f"no solution: {row['error'][:60]}"
        )
        print(
          f"{name:12} {method:6} {depth:5d} {row['fresh_s'] * 1e3:6.1f} ms {row['warm_s'] * 1e3:6.1f} ms"
          f" {row['memory_mb']:5.1f} MB  {residual}"
        )
  solved = [row for row in rows if "residual" in row]
  for key, budget in BUDGETS.items():
    values = [row[key] for row in solved]
    verdict = "pass" if max(values) <= budget else "MISS"
    print(
      f"{key}: median {statistics.median(values):.3g}, largest {max(values):.3g}, budget {budget:g}: {verdict}"
    )
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps({"machine": machine, "budgets": BUDGETS, "rows": rows}, indent=1))
  print(f"Written: {args.out}")


if __name__ == "__main__":
  main()
