"""Time and memory of solving for an activation, and the residual of its conditions.

    python benchmarks/solve.py                 # the whole table
    python benchmarks/solve.py --only gelu     # one activation
    python benchmarks/solve.py --quick         # a few

Each (activation, method, topology) is solved in a fresh process, after `import
tatnet`, and then again for other targets in the same process ("warm": median of
nine different targets, so that no result is remembered). Writes JSON beside the
table. Budgets: 0.3 s fresh, 20 ms warm, 100 MB above import, residual 1e-10.
"""

import statistics

import record

BUDGETS = {"fresh_s": 0.3, "warm_s": 0.02, "memory_mb": 100.0, "residual": 1e-10}
DEPTHS = (10, 49, 199)
QUICK = ("leaky_relu", "tanh", "gelu_exact")

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
  return record.in_fresh_process(CHILD, name, method, str(depth))


def main():
  """Measures, prints a table, writes JSON."""
  import tatnet

  parser = record.arguments("solve", __doc__)
  parser.add_argument("--only", nargs="*", help="names of activations")
  parser.add_argument("--methods", nargs="*", default=["tat", "dks", "eoc"])
  parser.add_argument("--depths", nargs="*", type=int, default=DEPTHS)
  parser.add_argument("--quick", action="store_true", help="three activations of depth 49")
  args = parser.parse_args()
  names = args.only or (QUICK if args.quick else tatnet.activation_names())
  depths = (49,) if args.quick else args.depths
  rows = []
  print(
    f"{'activation':12} {'method':6} {'depth':>5} {'fresh':>9} {'warm':>9} {'memory':>8}  residual"
  )
  for name in names:
    for method in args.methods:
      for depth in depths:
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
  verdicts = []
  for key, budget in BUDGETS.items():
    values = [row[key] for row in solved]
    print(f"{key}: median {statistics.median(values):.3g}, largest {max(values):.3g}")
    verdicts.append(record.verdict(f"largest {key}", max(values), budget))
  record.write(args.out, rows, verdicts)


if __name__ == "__main__":
  main()
