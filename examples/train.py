"""Trains deep networks, with shortcuts or without.

python examples/train.py digits
python examples/train.py cifar10 --optimizer sgd --learning-rate 0.05 --method eoc
python examples/train.py plot runs/a runs/b
"""

import dataclasses
import json
import logging
import math
import pathlib
import sys
import time

import haiku as hk
import jax
import jmp
import tyro
from configs import CONFIGS, Config
from inputs import open_inputs
from tqdm import tqdm

import tatnet
from tatnet import training


def build(config: Config, num_classes: int):
  """The network of a config, and the record of its solved activation."""
  methods = {
    "tat": tatnet.TAT(config.eta, config.tau),
    "dks": tatnet.DKS(config.zeta),
    "eoc": tatnet.EOC(),
    "none": None,
    None: tatnet.TAT(config.eta, config.tau),
  }
  given = {"normalization": config.normalization, "dropout_rate": config.dropout_rate}
  for key in ("depth", "width"):
    if getattr(config, key) is not None:
      given[key] = getattr(config, key)
  if "-" not in config.network:  # a baseline has its own activation and shortcuts
    given |= {"activation": config.activation, "shortcut_weight": config.shortcut_weight}
    given["method"] = methods[config.method]
  given = {key: value for key, value in given.items() if value is not None or key == "method"}
  network = tatnet.nets.create(config.network, num_classes, **given)
  if config.precision == "bfloat16":
    policy = jmp.get_policy("params=float32,compute=bfloat16,output=float32")
    hk.mixed_precision.set_policy(network.module, policy)
  return network


def run(config: Config, folder: pathlib.Path) -> training.Result:
  """Trains one network; returns its evaluation at the end."""
  inputs = open_inputs(config)
  mesh = training.data_mesh()
  network = build(config, inputs.num_classes)
  optimizer = training.make_optimizer(
    config.optimizer_settings, config.steps, mesh if mesh.size > 1 else None
  )
  is_writer = jax.process_index() == 0
  _start_folder(folder, config, network)

  # ---- State: made in one compiled function, or restored ----
  state = training.create_state(
    network,
    optimizer,
    jax.random.key(config.seed),
    inputs.shape,
    with_average=config.average_decay is not None,
  )
  state = training.replicated(mesh, state)
  checkpoints = training.Checkpoints(folder / "checkpoints")
  start = 0
  if config.resume and (found := checkpoints.restore(state)) is not None:
    start, state = found

  # ---- Step and evaluation ----
  loss = tatnet.optim.SoftmaxCrossEntropy(config.label_smoothing)
  step = training.make_train_step(
    network, loss, optimizer, prepare=inputs.prepare, average_decay=config.average_decay
  )
  evaluate = training.make_evaluation(network, prepare=inputs.prepare_evaluation)

  def evaluated(state) -> training.Result:
    params = training.parameters_to_evaluate(state)
    return evaluate(params, state.network_state, inputs.evaluation(mesh))

  # ---- Loop: the metrics of a step are read while the next one runs ----
  writer = training.MetricsWriter(folder, resume_from=start)
  bar = tqdm(
    total=config.steps, initial=start, desc=config.network, unit="step", disable=not is_writer
  )
  rate = training.learning_rate_schedule(config.optimizer_settings, config.steps)
  pending, result, saved = None, None, start
  clock = time.perf_counter()
  try:
    for number, batch in enumerate(inputs.batches(mesh, start), start=start + 1):
      state, metrics = step(state, batch)
      if pending is not None:
        clock = _record(writer, bar, config, rate, pending, saved, clock)
      pending = (number, metrics)
      if number % config.evaluate_every == 0 or number == config.steps:
        clock = _record(writer, bar, config, rate, pending, saved, clock)
        pending, result = None, evaluated(state)
        writer.write(number, {"test_loss": result.loss, "test_accuracy": result.accuracy})
        clock = time.perf_counter()
      if number % config.checkpoint_every == 0 or number == config.steps:
        checkpoints.save(number, state)
        saved = number
        clock = time.perf_counter()
      if number == config.steps:
        break
  except KeyboardInterrupt:
    number = int(state.step)
    checkpoints.save(number, state)
    bar.close()
    sys.exit(f"Stopped and saved at step {number}. Continue with the same command and --resume.")
  finally:
    bar.close()
    writer.close()
  return evaluated(state) if result is None else result


def _record(writer, bar, config: Config, rate, pending, saved: int, clock: float) -> float:
  """Writes a step's metrics; stops the run where the loss is not finite."""
  number, metrics = pending
  values = {name: float(value) for name, value in jax.device_get(metrics).items()}
  if not math.isfinite(values["loss"]):
    last = f"the last good checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
    sys.exit(
      f"The loss is {values['loss']} at step {number}, learning rate {float(rate(number - 1)):.3g};"
      f" {last}. Lower --learning-rate, or for K-FAC raise --damping."
    )
  now = time.perf_counter()
  values["images_per_second"] = config.batch_size / (now - clock)
  writer.write(number, values)
  bar.update()
  bar.set_postfix_str(
    f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.3f},"
    f" {values['images_per_second']:.0f} images/s"
  )
  return now


def _start_folder(folder: pathlib.Path, config: Config, network) -> None:
  """Makes the run's folder with its config; a new run does not mix with an old one."""
  if not config.resume and (folder / "metrics.jsonl").exists():
    sys.exit(f"{folder} holds a run already. Pass --resume to continue it, or another --out.")
  folder.mkdir(parents=True, exist_ok=True)
  saved = dataclasses.asdict(config)
  if hasattr(network.activation, "to_dict"):
    saved["solved_activation"] = network.activation.to_dict()
  (folder / "config.json").write_text(json.dumps(saved, indent=1))


def main(config: Config) -> None:
  """Trains, then trains what it is contrasted with, and prints the results."""
  out = pathlib.Path(config.out or f"runs/{config.data}-{config.network}")
  results, folders = {}, {}
  for name in (config.network, *config.contrast):
    folder = out if name == config.network else out.with_name(f"{out.name}-vs-{name}")
    results[name] = run(dataclasses.replace(config, network=name, contrast=()), folder)
    folders[name] = folder
  picture = out / "curves.png"
  training.plot_runs(folders, picture)
  print(f"\n{'network':24} {'test accuracy':>14} {'test loss':>10}")
  for name, result in results.items():
    print(f"{name:24} {100 * result.accuracy:12.2f} % {result.loss:10.4f}")
  print(f"{next(iter(results.values())).count} test images. Curves: {picture}")


def plot(folders: list[str]) -> None:
  """Draws several runs in one figure."""
  training.plot_runs({pathlib.Path(folder).name: folder for folder in folders}, "curves.png")
  print("Curves: curves.png")


if __name__ == "__main__":
  logging.basicConfig(level=logging.WARNING, format="%(message)s")
  if sys.argv[1:2] == ["plot"]:
    plot(sys.argv[2:])
  else:
    main(tyro.extras.overridable_config_cli(CONFIGS, description=__doc__))
