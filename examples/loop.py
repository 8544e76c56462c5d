"""The training loop of the examples, and what it stands on."""

import dataclasses
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jmp
from configs import Config
from inputs import Inputs, open_inputs
from tqdm import tqdm

import tatnet
from tatnet import training


class Parts(NamedTuple):
  """What a run is made of.

  Attributes:
    config: of the run.
    inputs: its data.
    network: of `tatnet.nets`.
    initial: ``() ->`` the state before the first step.
    like: its shapes, dtypes and shardings.
    step: from `tatnet.training.make_train_step`.
    evaluate: on all test examples.
  """

  config: Config
  inputs: Inputs
  network: tatnet.nets.Network
  initial: Callable[[], training.TrainState]
  like: training.TrainState
  step: Callable
  evaluate: Callable[[training.TrainState], training.Result]


def build(config: Config, num_classes: int) -> tatnet.nets.Network:
  """The network of a config, with its solved activation."""
  methods = {
    "tat": tatnet.TAT(config.eta, config.tau),
    "dks": tatnet.DKS(config.zeta),
    "eoc": tatnet.EOC(),
    "none": None,
  }
  names = ("depth", "width", "shortcut", "normalization")
  given: dict[str, Any] = {name: getattr(config, name) for name in names}
  given = {name: value for name, value in given.items() if value is not None}
  given["dropout_rate"] = config.dropout_rate
  # Baselines, and the networks of Hardt & Ma, have activation and shortcuts of their own.
  if "-" not in config.network and not config.network.startswith("identity"):
    given |= {"activation": config.activation, "shortcut_weight": config.shortcut_weight}
    given["method"] = methods[config.method]
  network = tatnet.nets.create(config.network, num_classes, **given)
  if config.precision == "bfloat16":
    policy = jmp.get_policy("params=float32,compute=bfloat16,output=float32")
    hk.mixed_precision.set_policy(network.module, policy)
  return network


def assemble(config: Config) -> Parts:
  """Data, network, optimiser, and the functions made of them."""
  mesh = training.data_mesh()
  inputs = open_inputs(config, mesh)
  network = build(config, inputs.num_classes)
  optimizer = training.make_optimizer(
    config.optimizer_settings, config.steps, mesh if mesh.size > 1 else None
  )

  def initial() -> training.TrainState:
    key, with_average = jax.random.key(config.seed), config.average_decay is not None
    return training.create_state(network, optimizer, key, inputs.shape, with_average=with_average)

  replicated = jax.NamedSharding(mesh, jax.P())
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
    jax.eval_shape(initial),
  )
  step = training.make_train_step(
    network,
    tatnet.optim.SoftmaxCrossEntropy(config.label_smoothing),
    optimizer,
    prepare=inputs.prepare,
    average_decay=config.average_decay,
  )
  evaluate = training.make_evaluation(network, prepare=inputs.prepare_evaluation)

  def evaluated(state) -> training.Result:
    params = training.parameters_to_evaluate(state)
    return evaluate(params, state.network_state, inputs.evaluation())

  return Parts(
    config,
    inputs,
    network,
    lambda: training.replicated(mesh, initial()),
    like,
    step,
    evaluated,
  )


class NotFinite(RuntimeError):  # noqa: N818, a state of the run
  """The loss, or a norm, is not a number any more; the message says where and what to do."""


class Outcome(NamedTuple):
  """How a loop ended.

  Attributes:
    step: the last one.
    state: after it.
    result: of the last evaluation; None if there was none.
    stopped: whether before the end of the run.
  """

  step: int
  state: training.TrainState
  result: training.Result | None
  stopped: bool


def train(parts: Parts, state: training.TrainState, record: "Record", stop: int) -> Outcome:
  """Steps until `stop`, or Ctrl-C; the metrics of a step are read while the next one runs."""
  config, number = parts.config, record.start
  pending = result = None
  due = config.optimizer_settings.factors_due
  batches = parts.inputs.batches(record.start)
  with training.Interruption() as interruption:
    # The range comes first: behind its end, no batch is made.
    for number, batch in zip(range(record.start + 1, stop + 1), batches, strict=False):
      state, metrics = parts.step(state, batch, refresh=due(number - 1))
      if pending is not None:
        record.step(*pending)
      pending = (number, metrics)
      ends = interruption.requested(number) or number == stop
      evaluates = number % config.evaluate_every == 0 or number == config.steps
      saves = number % config.checkpoint_every == 0 or ends
      if evaluates or saves:
        record.step(*pending)  # a state that is not finite is neither evaluated nor saved
        pending = None
      if evaluates:
        result = parts.evaluate(state)
        record.evaluation(number, state, result)
      if saves:
        record.checkpoint(number, state)
      if ends:
        break
  batches.close()
  return Outcome(number, state, result, stopped=number < config.steps)


@dataclasses.dataclass
class Record:
  """Metrics, progress and checkpoints of a run; only the first process writes metrics.

  Attributes:
    config: of the run.
    folder: of the run.
    start: step from which it starts or goes on.
  """

  config: Config
  folder: pathlib.Path
  start: int

  def __post_init__(self):
    self.checkpoints = training.Checkpoints(self.folder / "checkpoints")
    self._best = training.Checkpoints(self.folder / "best", keep=1)
    rows = [row for row in training.read_metrics(self.folder) if row["step"] <= self.start]
    self._best_accuracy = max((row.get("test_accuracy", -1.0) for row in rows), default=-1.0)
    self._rate = training.learning_rate_schedule(self.config.optimizer_settings, self.config.steps)
    self._saved = self.start
    is_writer = jax.process_index() == 0
    self._writer = training.MetricsWriter(self.folder, self.start) if is_writer else None
    self._bar = tqdm(
      total=self.config.steps,
      initial=self.start,
      desc=f"{self.config.network}, {self.config.optimizer}",
      unit="step",
      disable=not is_writer,
      mininterval=0.2 if sys.stderr.isatty() else 20,
    )
    self._clock = time.perf_counter()

  def step(self, number: int, metrics: dict[str, jax.Array]) -> None:
    """Writes a step's metrics; raises NotFinite where they are not."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    for name in ("loss", "gradient_norm", "update_norm"):
      if not math.isfinite(values[name]):
        self._end_the_run(number, name, values[name])
    now = time.perf_counter()
    values["images_per_second"] = self.config.batch_size / (now - self._clock)
    self._clock = now
    if self._writer is not None:
      self._writer.write(number, values)
    self._bar.set_postfix_str(
      f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.3f},"
      f" {values['images_per_second']:.0f} images/s",
      refresh=False,
    )
    self._bar.update()

  def _end_the_run(self, number: int, name: str, value: float) -> None:
    self.close()
    last = f"the last good checkpoint is of step {self._saved}"
    raise NotFinite(
      f"The {name.replace('_', ' ')} is {value} at step {number}, learning rate"
      f" {float(self._rate(number - 1)):.3g};"
      f" {last if self._saved else 'there is no checkpoint yet'}. Lower --learning-rate, or for"
      " K-FAC raise --damping."
    )

  def evaluation(self, number: int, state: training.TrainState, result: training.Result) -> None:
    """Writes an evaluation, and saves the parameters if they are the best so far."""
    if self._writer is not None:
      self._writer.write(number, {"test_loss": result.loss, "test_accuracy": result.accuracy})
    if result.accuracy > self._best_accuracy:
      self._best_accuracy = result.accuracy
      params = training.parameters_to_evaluate(state)
      self._save(self._best, number, {"params": params, "network_state": state.network_state})
    self._clock = time.perf_counter()

  def checkpoint(self, number: int, state: training.TrainState) -> None:
    """Saves everything that is needed to go on."""
    self._save(self.checkpoints, number, state)
    self._saved = number
    self._clock = time.perf_counter()

  def _save(self, checkpoints: training.Checkpoints, number: int, tree: Any) -> None:
    try:
      checkpoints.save(number, tree)
    except training.CheckpointNotWritten as error:
      self.close()
      sys.exit(str(error))

  def close(self) -> None:
    """Ends the bar and closes the files."""
    self._bar.close()
    if self._writer is not None:
      self._writer.close()


def unreadable_images(inputs: Inputs) -> str:
  """What could not be read, for the end of a run; empty if nothing."""
  counts = {name: len(numbers) for name, numbers in inputs.unreadable.items() if numbers}
  return ", ".join(
    itertools.starmap("{1} unreadable {0} images were left out".format, counts.items())
  )
