"""The image pipeline against the bare decode-crop-resize loop in as many processes.

    python benchmarks/input_pipeline.py --data-dir DATA

The bare loop has its JPEGs in memory and throws its crops away; the pipeline reads
records in shuffled order, decodes, crops and puts batches together, with worker
processes and with the threads of one process. Pipeline and loop alternate, so that
their ratio depends less on what else the machine does; where that is much, the ratio of
their processor times per image says more. Both are warm: batches made ahead of time are taken
out before the clock starts. Budget: the better of the two at at least 0.8 of the bare
loop. What counts is the smaller of the two ratios: on a busy machine a pipeline with one
process more than the loop gets more of the clock, which is no merit of its own.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import statistics
import time

import record

BUDGET = 0.8
BATCHES_AHEAD = 4  # more than the pipeline makes in advance


def decode_in_loop(pipe, data_dir: str, worker: int, num_images: int) -> None:
  """One process of the bare loop: as many crops as it is told to, when it is told to."""
  import numpy as np

  from tatnet.training import data

  source = data.TfdsImages("imagenet2012", "train", data_dir)
  start = worker * num_images % len(source)
  encoded = [source[(start + i) % len(source)].encoded for i in range(num_images)]
  rng = np.random.default_rng(worker)
  pipe.send("ready")
  while count := pipe.recv():
    for i in range(count):
      data.random_resized_crop_flip(rng, data.decode_image(encoded[i % num_images]))
    pipe.send("done")


def processor_seconds(process_ids) -> float:
  """User and system time of processes so far; not a number where there is no /proc."""
  try:
    fields = [
      pathlib.Path(f"/proc/{i}/stat").read_text().rsplit(")", 1)[1].split() for i in process_ids
    ]
  except FileNotFoundError:
    return float("nan")
  return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Speed:
  """Images per second of the clock, and processor milliseconds per image."""

  images_per_second: float
  milliseconds: float


class Stopwatch:
  """Measures what a set of processes do to a number of images."""

  def __init__(self, process_ids):
    self.process_ids = list(process_ids)
    self.processor = processor_seconds(self.process_ids)
    self.start = time.perf_counter()

  def speed(self, count: int) -> Speed:
    seconds = time.perf_counter() - self.start
    used = processor_seconds(self.process_ids) - self.processor
    return Speed(count / seconds, 1000 * used / count)


class BareLoop:
  """The bare loop in several processes."""

  def __init__(self, data_dir: str, num_processes: int, num_images: int):
    context = multiprocessing.get_context("spawn")
    self.pipes, self.processes = [], []
    for worker in range(num_processes):
      here, there = context.Pipe()
      arguments = (there, data_dir, worker, num_images)
      process = context.Process(target=decode_in_loop, args=arguments, daemon=True)
      process.start()
      self.pipes.append(here)
      self.processes.append(process)
    for pipe in self.pipes:
      pipe.recv()

  @property
  def process_ids(self) -> set[int]:
    return {process.pid for process in self.processes}

  def speed(self, count: int) -> Speed:
    """Of all processes together, until the last one is done."""
    watch = Stopwatch(self.process_ids)
    for pipe in self.pipes:
      pipe.send(count // len(self.pipes))
    for pipe in self.pipes:
      pipe.recv()
    return watch.speed(count)

  def close(self) -> None:
    for pipe, process in zip(self.pipes, self.processes, strict=True):
      pipe.send(0)
      process.join()


def pipeline_speed(batches, count: int, batch_size: int, others: set[int]) -> Speed:
  """Of the pipeline, once what it made ahead of time is gone."""
  for _ in range(BATCHES_AHEAD):
    next(batches)
  workers = {process.pid for process in multiprocessing.active_children()} - others
  watch = Stopwatch({os.getpid(), *workers})
  for _ in range(count // batch_size):
    next(batches)
  return watch.speed(count)


def spread(values, form: str) -> str:
  """Median, and the smallest and largest value."""
  low, high = min(values), max(values)
  return f"{statistics.median(values):{form}} ({low:{form}} -{high:{form}})"


def milliseconds(speeds) -> float:
  """Median of the processor time per image."""
  return statistics.median(speed.milliseconds for speed in speeds)


def show(name: str, speeds, ratio: str) -> None:
  """A row of the table."""
  rate = spread([speed.images_per_second for speed in speeds], "7.0f")
  print(f"{name:24} {rate:>28} {milliseconds(speeds):20.2f} {ratio:>20}".rstrip())


def main():
  """Measures, prints a table, writes JSON."""
  import cv2
  import grain

  from tatnet.training import data

  parser = record.arguments("input_pipeline", __doc__)
  parser.add_argument("--data-dir", required=True, help="has the folder imagenet2012")
  parser.add_argument("--processes", type=int, default=os.cpu_count())
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--images", type=int, default=2048, help="in each measurement")
  parser.add_argument("--repeats", type=int, default=9)
  args = parser.parse_args()
  source = data.TfdsImages("imagenet2012", "train", args.data_dir)
  count = args.images // args.batch * args.batch
  pipelines = {f"{args.processes} worker process(es)": args.processes, "threads": 0}
  rows = []
  print(
    f"{'':24} {'images/s':>28} {'processor ms/image':>20} {'ratio to bare loop':>20}  of processor time"
  )
  bare = BareLoop(args.data_dir, args.processes, 512)
  for name, workers in pipelines.items():
    with data.image_batches(source, args.batch, 0, train=True, num_workers=workers) as batches:
      pipeline_speed(batches, args.batch, args.batch, bare.process_ids)
      pairs = [
        (pipeline_speed(batches, count, args.batch, bare.process_ids), bare.speed(count))
        for _ in range(args.repeats)
      ]
    ours, theirs = zip(*pairs, strict=True)
    ratios = [a.images_per_second / b.images_per_second for a, b in pairs]
    processor_ratio = milliseconds(theirs) / milliseconds(ours)
    rows.append(
      {
        "pipeline": name,
        "speeds": [dataclasses.asdict(speed) for speed in ours],
        "bare_loop": [dataclasses.asdict(speed) for speed in theirs],
        "ratios": ratios,
        "processor_ratio": processor_ratio,
      }
    )
    show("bare loop beside it", theirs, "")
    show(name, ours, f"{spread(ratios, '5.2f')}  {processor_ratio:.2f}")
  bare.close()
  best = max(min(statistics.median(row["ratios"]), row["processor_ratio"]) for row in rows)
  verdict = record.verdict("best ratio to the bare loop", best, BUDGET, at_least=True)
  versions = {"grain": grain.__version__, "opencv": cv2.__version__}
  record.write(args.out, rows, [verdict], versions=versions)


if __name__ == "__main__":
  main()
