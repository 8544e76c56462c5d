"""The trainer's loop against the bare jitted step.

    python benchmarks/train_loop.py [--quick]

The bare loop calls the step on one batch that lies on the device. The trainer's loop
makes the batches, draws the bar, writes the metrics of every step as JSON lines and as
TensorBoard events, listens for Ctrl-C, and saves a checkpoint: a measurement takes as
many steps as lie between two checkpoints of the config. Both run the same compiled step
from the same kind of state, in turn; neither evaluates in the time that counts.
Budget: at least 0.95 of the bare loop's steps per second. Compilation is apart.
"""

import pathlib
import statistics
import sys
import tempfile
import time

import jax
import record

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))

BUDGET = 0.95


def bare_seconds(parts, state, batch, steps: int):
  """Seconds a step of the step alone, and the state after them."""
  due = parts.config.optimizer_settings.factors_due
  start = time.perf_counter()
  for number in range(steps):
    state, metrics = parts.step(state, batch, refresh=due(number))
  jax.block_until_ready(metrics)
  return (time.perf_counter() - start) / steps, state


def loop_seconds(parts, state, steps: int):
  """Seconds a step in the trainer's loop, from what it wrote itself, and the state."""
  import loop

  from tatnet import training

  with tempfile.TemporaryDirectory() as folder:
    writer = loop.Record(parts.config, pathlib.Path(folder), 0)
    # One checkpoint is there, as in a run that goes on: it is read again before older ones go.
    writer.checkpoints.save(0, state)
    start = time.perf_counter()
    outcome = loop.train(parts, state, writer, steps)
    seconds = (time.perf_counter() - start) / steps
    writer.close()
    assert len(training.read_metrics(folder)) == steps
  return seconds, outcome.state


def measure(name: str, repeats: int, **options) -> dict:
  """A row of the table."""
  import configs
  import loop

  config = configs.CONFIGS[name][1]
  # A checkpoint comes before every evaluation too.
  steps = min(config.checkpoint_every, config.evaluate_every)
  # The only checkpoint of a measurement is the one at its end.
  never = dict.fromkeys(("evaluate_every", "checkpoint_every", "steps"), 10**9)
  # At the usual rates K-FAC fits a batch that never changes, and then diverges.
  options = {**never, "contrast": (), "learning_rate": 1e-7, **options}
  config = config.replaced(**options).resolved()
  parts = loop.assemble(config)
  state = parts.initial()
  batch = next(parts.inputs.batches(0))
  start = time.perf_counter()
  for refresh in sorted({config.optimizer_settings.factors_due(i) for i in range(100)}):
    state, metrics = parts.step(state, batch, refresh=refresh)
  jax.block_until_ready(metrics)
  compile_seconds = time.perf_counter() - start
  pairs = []
  for _ in range(repeats):
    theirs, state = bare_seconds(parts, state, batch, steps)
    ours, state = loop_seconds(parts, state, steps)
    pairs.append((theirs, ours))
  ratios = [theirs / ours for theirs, ours in pairs]
  row = {
    "config": name,
    "network": config.network,
    "optimizer": config.optimizer,
    "batch_size": config.batch_size,
    "steps": steps,
    "compile_seconds": compile_seconds,
    "bare_ms": [1000 * theirs for theirs, _ in pairs],
    "loop_ms": [1000 * ours for _, ours in pairs],
    "ratios": ratios,
    "ratio": statistics.median(ratios),
  }
  bare, ours = (statistics.median(row[key]) for key in ("bare_ms", "loop_ms"))
  print(
    f"{name:10} {config.network + ', ' + config.optimizer:24} {compile_seconds:10.1f}"
    f" {bare:12.2f} {ours:12.2f} {row['ratio']:7.3f} ({min(ratios):.3f} - {max(ratios):.3f})"
  )
  return row


def main():
  """Measures, prints a table, writes JSON."""
  parser = record.arguments("train_loop", __doc__)
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--quick", action="store_true", help="three times")
  args = parser.parse_args()
  repeats = 3 if args.quick else args.repeats
  print(
    f"{'':35} {'compile s':>10} {'bare ms/step':>12} {'loop ms/step':>12} {'ratio':>7} (spread)"
  )
  rows = [
    measure("digits", repeats),
    measure("digits", repeats, optimizer="kfac"),
    # Few layers: the shortest steps, where a loop's overhead shows most.
    measure("mnist", repeats, fake_data=True, network="mlp", depth=14, width=128),
  ]
  worst = min(row["ratio"] for row in rows)
  verdict = record.verdict("smallest ratio to the bare step", worst, BUDGET, at_least=True)
  record.write(args.out, rows, [verdict])


if __name__ == "__main__":
  main()
