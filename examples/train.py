"""Trains deep networks, with shortcuts or without.

python examples/train.py digits

python examples/train.py cifar10 --network cifar_resnet56 --eta 0.9 --steps 4000 --contrast

python examples/train.py --plot runs/cifar10-cifar_resnet20 runs/cifar10-cifar_resnet56
"""

import contextlib
import dataclasses
import logging
import pathlib
import shlex
import sys
import textwrap
import time
import traceback

import endings
import folders
import jax
import sampling
import summary
import tyro
from companions import Companions
from configs import CONFIGS, Config
from loop import NotFinite, Record, assemble, train, unreadable_images
from summary import Row

import tatnet
from tatnet import training
from tatnet.training.files import write_whole


def config_of_flags() -> Config:
  """The config that the command line names, with what it overrides."""
  try:
    return tyro.extras.overridable_config_cli(CONFIGS, description=__doc__)
  except ValueError as error:  # of a setting of the optimiser
    raise endings.Ended(str(error)) from error


def run(config: Config, folder: pathlib.Path) -> Row:
  """Trains one network, or goes on with it."""
  begin = time.perf_counter()
  with contextlib.ExitStack() as stack:
    stack.enter_context(endings.sentences(folder))
    is_writer = jax.process_index() == 0
    try:
      parts = assemble(config)
      if is_writer:
        stack.callback(training.FolderLock(folder).release)
      now = folders.flags(config, parts.network)
      folders.check_folder(folder, config, now)
      found = folders.restore(folder, config, parts.like) if config.resume else None
    except ValueError as error:  # of what was asked for
      raise endings.Ended(str(error)) from error
    start, state = found or (0, parts.initial())
    del found  # the step consumes the state: nothing else may hold it
    if is_writer:
      folders.write_config(folder, start, now)
    record = Record(config, folder, start)
    stack.callback(record.close)
    stop = min(config.steps, start + (config.stop_after or config.steps))
    outcome = train(parts, state, record, stop)
    record.close()
    if (left_out := unreadable_images(parts.inputs)) and is_writer:
      print(left_out, file=sys.stderr)
    if outcome.stopped:
      again = shlex.join(["python", *sys.argv, *([] if config.resume else ["--resume"])])
      sentence = f"Stopped and saved at step {outcome.step}. Go on with:\n  {again}"
      raise endings.Ended(sentence, endings.STOPPED)
    result = outcome.result or parts.evaluate(outcome.state, lambda _: False)
    if config.data == "text" and is_writer:
      params = jax.device_get(training.parameters_to_evaluate(outcome.state))
      written = sampling.sample(parts.network, params, config.seed)
      write_whole(folder / "sample.txt", written)
      print(f"\n{config.network} writes:\n{textwrap.indent(written, '  ')}")
  minutes = (time.perf_counter() - begin) / 60
  return Row(config, folder, result, record.best_accuracy, minutes)


def main(config: Config) -> list[Row]:
  """Trains, then trains what it is contrasted with, and prints the results."""
  name = pathlib.Path(config.data).name
  out = pathlib.Path(config.out or f"runs/{name}-{config.network}")
  if config.coordinator is None:
    return train_all(config, out)
  address = None if config.coordinator == "auto" else config.coordinator
  training.start_processes(address, config.num_processes, config.process_id)
  companions = Companions(out)
  companions.watch()
  try:
    return train_all(config, out)
  except endings.Ended as end:
    if end.code != endings.ERROR:
      raise  # they all end so
    companions.fail(str(end))
  except jax.errors.JaxRuntimeError as error:
    companions.lost(error)
  except Exception as error:
    traceback.print_exc()
    companions.fail(repr(error))


def train_all(config: Config, out: pathlib.Path) -> list[Row]:
  """One run after the other."""
  runs = {out: config}
  try:
    for contrast in config.contrast:
      folder = out.with_name(f"{out.name}-vs-{contrast.replace(':', '-')}")
      runs[folder] = config.contrasted(contrast)
      tatnet.nets.architecture_of(runs[folder].network)  # not after hours of the first run
    runs = {folder: each.resolved() for folder, each in runs.items()}
  except ValueError as error:
    raise endings.Ended(str(error)) from error
  rows = []
  for folder, each in runs.items():
    try:
      rows.append(run(dataclasses.replace(each, contrast=()), folder))
    except NotFinite as error:
      if folder == out:
        raise endings.Ended(str(error), endings.DIVERGED) from error
      print(f"{each.network}, {each.optimizer}: {error}", file=sys.stderr)
      rows.append(Row(each, folder))
  if jax.process_index() == 0:
    with endings.sentences(out):
      summary.print_table(rows)
      summary.draw([row.folder for row in rows], out / "curves.png")
  return rows


if __name__ == "__main__":
  logging.basicConfig(level=logging.WARNING, format="%(message)s")
  # Orbax's threads log tracebacks of errors that it raises as well.
  logging.getLogger("absl").addFilter(lambda record: not record.exc_info)
  try:
    if "--plot" in sys.argv:
      summary.plot(sys.argv[1:])
    else:
      main(config_of_flags())
  except endings.Ended as end:
    print(end, file=sys.stderr)
    sys.exit(end.code)
  except KeyboardInterrupt:  # while no step was running
    print("Stopped; what was saved before is intact.", file=sys.stderr)
    sys.exit(endings.INTERRUPTED)
