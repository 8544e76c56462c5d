"""Is what `trace` says of a model true of the network that runs?

    python benchmarks/trace_battery.py [--only WORD] [--seeds 24]

Small models after published architectures, in Haiku, Flax linen, Flax NNX, Equinox and
plain JAX, at initialisation with weights of variance 1 / inputs, widths of 128 to 256.
Each is traced; if it is accepted, its C map is held against the cosines of the network's
output, and q at every marked layer and at the output against 1, as means over seeds. Right
is: c within 0.03 and q within 10 %, beyond two standard errors; or a finding or a
warning that names what is at fault.
"""

import collections
import os
import time

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # many programs, each run a few times

import record
from battery import MODELS
from battery.measure import AGREES, CRASH, FLAGGED, REFUSED, WRONG, judge

BUDGETS = {WRONG: 0, REFUSED: 0, CRASH: 0}


def main():
  """Judges every model, prints the table, writes JSON."""
  parser = record.arguments("trace_battery", __doc__)
  parser.add_argument("--only", default="", help="models whose name, kind or library has this")
  parser.add_argument("--seeds", type=int, default=24)
  parser.add_argument("--quick", action="store_true", help="half of the seeds")
  args = parser.parse_args()
  seeds = args.seeds // 2 if args.quick else args.seeds
  chosen = [m for m in MODELS if args.only in f"{m.name}|{m.kind}|{m.library}"]
  rows, counts = [], collections.Counter()
  print(f"{'model':32} {'kind':26} {'library':10} {'outcome':16} {'s':>5}  detail")
  for model in chosen:
    start = time.perf_counter()
    outcome = judge(model, seeds)
    seconds = time.perf_counter() - start
    counts[outcome.outcome] += 1
    rows.append(
      {
        "model": model.name,
        "kind": model.kind,
        "library": model.library,
        "outcome": outcome.outcome,
        "detail": outcome.detail,
        "seconds": seconds,
      }
    )
    print(
      f"{model.name:32} {model.kind:26} {model.library:10} {outcome.outcome:16} {seconds:5.1f}"
      f"  {outcome.detail[:160]}",
      flush=True,
    )
  kinds = len({model.kind for model in chosen})
  said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in (AGREES, FLAGGED, *BUDGETS))
  print(f"{len(rows)} models of {kinds} kinds: {said}.")
  verdicts = [
    record.verdict(f"models {outcome}", counts[outcome], budget)
    for outcome, budget in BUDGETS.items()
  ]
  record.write(args.out, rows, verdicts, seeds=seeds)


if __name__ == "__main__":
  main()
