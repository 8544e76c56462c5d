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
import jax.numpy as jnp
import jmp
import optax
from configs import Config
from inputs import Inputs, open_inputs
from tqdm import tqdm

import tatnet
from tatnet import training
from tatnet.training.optimizers import gains_apart


class Parts(NamedTuple):
  """What a run is made of.

  Attributes:
    config: of the run.
    inputs: its data.
    network: of `tatnet.nets`.
    initial: ``() ->`` the state before the first step.
    like: its shapes, dtypes and shardings.
    step: from `tatnet.training.make_train_step`.
    evaluate: on all test examples; None once its second argument, which it asks
      with the number of each batch, says that the run stops.
  """

  config: Config
  inputs: Inputs
  network: tatnet.nets.Network
  initial: Callable[[], training.TrainState]
  like: training.TrainState
  step: Callable
  evaluate: Callable[[training.TrainState, Callable[[int], bool]], training.Result | None]


def build(config: Config, num_classes: int) -> tatnet.nets.Network:
  """The network of a config, with its solved activation."""
  methods = {
    "tat": tatnet.TAT(config.eta, config.tau),
    "dks": tatnet.DKS(config.zeta),
    "eoc": tatnet.EOC(),
    "none": None,
  }
  names = ("depth", "width", "shortcut", "normalization", "heads", "context", "patch")
  given: dict[str, Any] = {name: getattr(config, name) for name in names}
  given = {name: value for name, value in given.items() if value is not None}
  if _is_transformer(config):
    if config.dropout_rate:
      raise ValueError(
        f"--dropout-rate {config.dropout_rate} with a transformer, which has none; expected 0."
      )
    given["query_scale"] = 0.01 if _by_kfac(config) else 0.0
    if config.query_scale is not None:
      given["query_scale"] = config.query_scale
  else:
    given["dropout_rate"] = config.dropout_rate
  if not _is_fixed(config):
    given |= {"activation": config.activation, "shortcut_weight": config.shortcut_weight}
    given["method"] = methods[config.method]
  network = tatnet.nets.create(config.network, num_classes, **given)
  if config.precision == "bfloat16":
    policy = jmp.get_policy("params=float32,compute=bfloat16,output=float32")
    hk.mixed_precision.set_policy(network.module, policy)
  return network


def _is_fixed(config: Config) -> bool:
  """Whether it is a baseline, or of Hardt & Ma, with activation and shortcuts of its own."""
  _, _, baseline = config.network.partition("-")
  if _is_transformer(config):
    return "activation" in tatnet.nets.TRANSFORMER_BASELINES.get(baseline, {})
  return bool(baseline) or config.network.startswith("identity")


def _is_transformer(config: Config) -> bool:
  return config.network.partition("-")[0] in tatnet.nets.TRANSFORMERS


def _by_kfac(config: Config) -> bool:
  return config.optimizer in ("kfac", "adaptive-kfac")


def optimizer_of(config: Config, mesh: jax.sharding.Mesh) -> optax.GradientTransformationExtraArgs:
  """The optimiser of a run; beside K-FAC, which knows layers, the gains of attention have Adam."""
  settings, mesh = config.optimizer_settings, mesh if mesh.size > 1 else None
  made = training.make_optimizer(settings, config.steps, mesh)
  if not (_is_transformer(config) and _by_kfac(config)):
    return made
  adam = dataclasses.replace(settings, name="adam", learning_rate=1e-3, weight_decay=0.0)
  return gains_apart(made, training.make_optimizer(adam, config.steps))


def loss_of(config: Config) -> tatnet.optim.Loss:
  """Cross-entropy; of text the mean over its characters."""
  loss = tatnet.optim.SoftmaxCrossEntropy(config.label_smoothing)
  return tatnet.optim.MeanOverLocations(loss) if config.data == "text" else loss


def assemble(config: Config) -> Parts:
  """Data, network, optimiser, and the functions made of them."""
  mesh = training.data_mesh()
  inputs = open_inputs(config, mesh)
  network = build(config, inputs.num_classes)
  optimizer = optimizer_of(config, mesh)

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
    loss_of(config),
    optimizer,
    prepare=inputs.prepare,
    average_decay=config.average_decay,
    # Gradients of attention's keys add up to zero over tokens: these are counted one by one.
    sharing="expand" if _is_transformer(config) else "reduce",
    uncovered="identity" if _is_transformer(config) else "error",
  )
  evaluate = training.make_evaluation(network, prepare=inputs.prepare_evaluation)

  def evaluated(state, stops: Callable[[int], bool]) -> training.Result | None:
    def until_it_stops():
      for number, batch in enumerate(inputs.evaluation()):
        if stops(number):
          raise _StoppedError
        yield batch

    try:
      params = training.parameters_to_evaluate(state)
      return evaluate(params, state.network_state, until_it_stops())
    except _StoppedError:
      return None

  return Parts(
    config,
    inputs,
    network,
    lambda: training.replicated(mesh, initial()),
    like,
    step,
    evaluated,
  )


class _StoppedError(Exception):
  """Between two batches of an evaluation."""


class NotFinite(RuntimeError):  # noqa: N818, a state of the run
  """The loss, or a norm, is not a number any more; the message says where and what to do."""


class Outcome(NamedTuple):
  """How a loop ended.

  Attributes:
    step: the last one.
    state: after it.
    result: of the last evaluation; None if there was none.
    stopped: whether before the end of the run, or in its last evaluation.
  """

  step: int
  state: training.TrainState
  result: training.Result | None
  stopped: bool


def train(parts: Parts, state: training.TrainState, record: "Record", stop: int) -> Outcome:
  """Steps until `stop`, or a signal; the metrics of a step are read while the next one runs.

  A state is saved before it is evaluated. Where that was the last that came, the
  evaluation is made up for when the run goes on.
  """
  config, number = parts.config, record.start
  pending = result = None
  stopped = False
  due = config.optimizer_settings.factors_due
  batches = parts.inputs.batches(record.start)
  with training.Interruption() as interruption:
    if record.owes_evaluation:
      result = parts.evaluate(state, interruption.requested)
      record.evaluation(number, state, result)
      stopped = result is None
    # The range comes first: behind its end, no batch is made.
    numbers = range(record.start + 1, record.start if stopped else stop + 1)
    for number, batch in zip(numbers, batches, strict=False):
      state, metrics = parts.step(state, batch, refresh=due(number - 1))
      if pending is not None:
        record.step(*pending)
      pending = (number, metrics)
      stopped = interruption.requested(number)
      evaluates = number % config.evaluate_every == 0 or number == config.steps
      ends = stopped or number == stop
      if evaluates or ends or number % config.checkpoint_every == 0:
        record.step(*pending)  # a state that is not finite is neither evaluated nor saved
        pending = None
        record.checkpoint(number, state)
      if evaluates and not stopped:
        result = parts.evaluate(state, interruption.requested)
        record.evaluation(number, state, result)
        stopped = result is None
      if stopped or ends:
        break
  batches.close()
  return Outcome(number, state, result, stopped or number < config.steps)


@dataclasses.dataclass
class Record:
  """Metrics, progress and checkpoints of a run; only the first process writes metrics.

  Attributes:
    config: of the run.
    folder: of the run.
    start: step from which it starts or goes on.
    best_accuracy: of the evaluations so far.
    owes_evaluation: whether one was cut off at that step, and has to be made up for.
  """

  config: Config
  folder: pathlib.Path
  start: int

  def __post_init__(self):
    self.checkpoints = training.Checkpoints(self.folder / "checkpoints")
    self._best = training.Checkpoints(self.folder / "best", keep=1)
    rows = [row for row in training.read_metrics(self.folder) if row["step"] <= self.start]
    evaluated = {row["step"] for row in rows if "test_accuracy" in row}
    is_due = self.start % self.config.evaluate_every == 0 or self.start == self.config.steps
    self.owes_evaluation = self.start > 0 and is_due and self.start not in evaluated
    self.best_accuracy = max((row.get("test_accuracy", -1.0) for row in rows), default=-1.0)
    self._rates = _Rates(self.config)
    self._saved, self._has_warned = self.start, False
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
    values = {"learning_rate": self._rates.at(number - 1)}
    if self.config.optimizer == "kfac":
      values["damping"] = self.config.optimizer_settings.damping
    values |= {name: float(value) for name, value in jax.device_get(metrics).items()}
    for name in ("loss", "gradient_norm", "update_norm"):
      if not math.isfinite(values[name]):
        self._end_the_run(number, name, values[name])
    now = time.perf_counter()
    values["images_per_second"] = self.config.batch_size / (now - self._clock)
    self._clock = now
    if self._writer is not None:
      self._writer.write(number, values)
    self._bar.set_postfix_str(
      f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.3f},{_found_by_kfac(values)}"
      f" {values['images_per_second']:.0f} images/s",
      refresh=False,
    )
    if values.get("overshoot", 0.0) > 1 and not self._has_warned:
      self._has_warned = True
      self._bar.write(
        f"Step {number}: the loss rises along K-FAC's own steps (overshoot"
        f" {values['overshoot']:.2g}): --learning-rate over --damping is too high. Raise"
        " --damping, or take --optimizer adaptive-kfac.",
        file=sys.stderr,
      )
    self._bar.update()

  def _end_the_run(self, number: int, name: str, value: float) -> None:
    last = f"the last good checkpoint is of step {self._saved}"
    raise NotFinite(
      f"The {name.replace('_', ' ')} is {value} at step {number}, learning rate"
      f" {self._rates.at(number - 1):.3g};"
      f" {last if self._saved else 'there is no checkpoint yet'}. Lower --learning-rate, or for"
      " K-FAC raise --damping."
    )

  def evaluation(
    self, number: int, state: training.TrainState, result: training.Result | None
  ) -> None:
    """Saves the parameters if they are the best so far, and writes the result, if there is one."""
    if result is None:
      return
    if result.accuracy > self.best_accuracy:
      self.best_accuracy = result.accuracy
      params = training.parameters_to_evaluate(state)
      self._best.save(number, {"params": params, "network_state": state.network_state})
    if self._writer is not None:
      self._writer.write(number, {"test_loss": result.loss, "test_accuracy": result.accuracy})
    self._clock = time.perf_counter()

  def checkpoint(self, number: int, state: training.TrainState) -> None:
    """Saves everything that is needed to go on."""
    self.checkpoints.save(number, state)
    self._saved = number
    self._clock = time.perf_counter()

  def close(self) -> None:
    """Ends the bar and closes the files."""
    self._bar.close()
    if self._writer is not None:
      self._writer.close()


def _found_by_kfac(values: dict[str, float]) -> str:
  """What K-FAC has found itself, for the bar."""
  if "reduction_ratio" not in values:
    return ""
  return (
    f" rate {values['learning_rate']:.2g}, damping {values['damping']:.2g},"
    f" ratio {values['reduction_ratio']:.2f},"
  )


class _Rates:
  """The learning rates of the steps: a schedule that is called at each would take their time."""

  _AT_ONCE = 1000

  def __init__(self, config: Config):
    schedule = training.learning_rate_schedule(config.optimizer_settings, config.steps)
    self._many = jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))
    self._block, self._values = -1, []

  def at(self, updates: int) -> float:
    """The rate after a number of updates."""
    block, place = divmod(updates, self._AT_ONCE)
    if block != self._block:
      steps = jnp.arange(block * self._AT_ONCE, (block + 1) * self._AT_ONCE)
      self._block, self._values = block, jax.device_get(self._many(steps)).tolist()
    return self._values[place]


def unreadable_images(inputs: Inputs) -> str:
  """What could not be read, for the end of a run; empty if nothing."""
  counts = {name: len(numbers) for name, numbers in inputs.unreadable.items() if numbers}
  return ", ".join(
    itertools.starmap("{1} unreadable {0} images were left out".format, counts.items())
  )
