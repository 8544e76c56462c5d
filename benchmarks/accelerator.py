"""One accelerator in eight minutes: train steps, K-FAC, inverses, CIFAR-10 at 20 layers.

    python benchmarks/accelerator.py [--data-dir DATA] [--minutes 4] [--only steps curvature]
    python benchmarks/accelerator.py --toy

On one GPU or TPU, without network. ResNet-50 at 224x224, batch 256, bfloat16, without
shortcuts and normalisation against the usual one: time, memory by the compiler's
account, compilation. K-FAC's step against SGD's on a deep MLP, and its inverses one at a
time against batched. CIFAR-10 at 20 layers by Muon, both networks, for as many epochs as
fit in `--minutes`; without ``--data-dir`` on made images, which say nothing of accuracy.
Programs that are compared take turns. Each part is written as soon as it is done, and
one that fails is named and leaves the others. ``--toy`` is everything at a size for CPUs,
to try the kit itself.
"""

import time
import traceback

import record
from accelerators import cifar10, curvature, steps


def main():
  """Measures part by part; writes JSON, and the tables as Markdown beside it."""
  parser = record.arguments("accelerator", __doc__)
  parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
  parser.add_argument("--minutes", type=float, default=4.0, help="for CIFAR-10")
  parser.add_argument("--only", nargs="*", choices=["steps", "curvature", "cifar10"])
  parser.add_argument("--toy", action="store_true")
  args = parser.parse_args()
  parts = {
    "steps": (lambda: steps.measure(args.toy), steps.table),
    "curvature": (lambda: curvature.measure(args.toy), curvature.table),
    "cifar10": (lambda: cifar10.measure(args.toy, args.data_dir, args.minutes), cifar10.table),
  }
  rows, tables = {}, [f"# {_hardware()}"]
  for name in args.only or parts:
    measure, table = parts[name]
    start = time.perf_counter()
    try:
      rows[name] = measure()
      tables.append(table(rows[name]))
    except Exception as error:
      traceback.print_exc()
      rows[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
      tables.append(f"{name} failed: {rows[name]['failed']}")
    print(f"{tables[-1]}\n({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)
    record.write(args.out, rows, toy=args.toy)
    args.out.with_suffix(".md").write_text("\n\n".join(tables) + "\n")
  if any("failed" in found for found in rows.values()):
    raise SystemExit(1)


def _hardware() -> str:
  """What the numbers belong to, in a line."""
  found = record.machine()
  return f"{found['device']}, jax {found['jax']}, tatnet {found['tatnet']}"


if __name__ == "__main__":
  main()
