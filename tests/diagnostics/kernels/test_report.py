"""Kernel reports: predicted against measured in wide networks, verdicts, text and figure."""

import builtins
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.diagnostics import Verdict, input_pairs, kernel_report, report_figure

DEPTH, SEEDS = 8, 6


def mlp(width, depth, scale=None):
  """Stacked layers with Gaussian weights: they compile once, and need no factorisation."""

  def forward(x, activation):
    gain = scale or getattr(activation, "weight_scale", None) or 1.0

    def w_init(shape, dtype):
      return gain * jax.random.normal(hk.next_rng_key(), shape, dtype) / math.sqrt(shape[0])

    def layer(x):
      return activation(hk.Linear(width, w_init=w_init)(x))

    x = hk.experimental.layer_stack(depth - 1)(layer)(layer(x))
    return hk.Linear(10, w_init=w_init)(x)

  return forward


def shaped(name, method, depth):
  return tatnet.transform_activation(name, tatnet.chain(depth), method)


@pytest.mark.parametrize(
  "activation",
  [
    shaped("leaky_relu", tatnet.TAT(0.8), DEPTH),
    shaped("tanh", tatnet.DKS(), DEPTH),
    shaped("relu", tatnet.EOC(), DEPTH),
    "tanh",
  ],
  ids=["TAT leaky_relu", "DKS tanh", "EOC relu", "untransformed tanh"],
)
def test_wide_networks_follow_their_maps(activation):
  pairs = input_pairs([0.3] * 6, (512,))
  report = kernel_report(mlp(512, DEPTH), pairs, activation=activation, seeds=SEEDS)
  c = (report.c_measured - report.c_predicted[:, None]) / report.c_scatter[:, None, None]
  q = (report.q_measured / report.q_predicted[:, None] - 1) / report.q_scatter[:, None, None]
  for scores in (c, q):
    # Pairs of one network scatter together: no more than one sample a seed is relied on.
    assert np.all(np.abs(scores.mean((1, 2))) < 4 / math.sqrt(SEEDS))
  # The expected scatter is neither exceeded nor so wide that nothing could.
  assert np.all(np.abs(np.sqrt(np.mean(c[1:] ** 2, (1, 2))) - 1) < 0.5)
  assert Verdict.DEPARTS not in {finding.verdict for finding in report.findings}
  logs = np.log(report.gradients_measured / report.gradients_measured[-1]).mean(1)
  np.testing.assert_allclose(logs, np.log(report.gradients_predicted), atol=0.1)


@pytest.fixture(scope="module")
def relu():
  pairs = input_pairs([0.0, 0.5], (128,))
  return kernel_report(mlp(128, 100), pairs, activation=shaped("relu", tatnet.EOC(), 100), seeds=3)


def test_deep_relu_collapses(relu):
  assert relu.verdict is Verdict.COLLAPSES
  # 1 - C of a chain of ReLUs is 0.0313 after 30 of them, 0.0295 after 31.
  assert 29 <= relu.findings[0].layer <= 33
  assert "orthogonal inputs reach the cosine 0.97" in relu.findings[0].evidence
  assert f"[{relu.where[relu.findings[0].layer - 1]}]" in str(relu)


def test_tailored_relu_is_well_shaped():
  pairs = input_pairs([0.0, 0.5], (128,))
  activation = shaped("leaky_relu", tatnet.TAT(0.9), 50)
  report = kernel_report(mlp(128, 50), pairs, activation=activation, seeds=3)
  assert report.verdict is Verdict.WELL_SHAPED
  assert report.findings == []
  assert report.orthogonal[-1] == pytest.approx(0.9, abs=1e-6)
  assert report.slopes[-1] == pytest.approx(1)
  zero = np.argmin(np.abs(report.map_inputs))
  assert report.map_outputs[zero] == report.orthogonal[-1]
  assert report.q_measured.shape == (50, 3, 4)
  assert report.c_measured.shape == (50, 3, 2)
  assert report.gradients_measured.shape == (50, 3)
  assert list(report.widths) == [128] * 50


def test_fifty_layers_of_32_channels_are_too_narrow():
  activation = shaped("leaky_relu", tatnet.TAT(0.9), 50)

  def forward(x, activation):
    w_init = tatnet.ScaledUniformOrthogonal()

    def layer(x):
      return activation(hk.Conv2D(32, 3, w_init=w_init)(x))

    x = hk.experimental.layer_stack(49)(layer)(layer(x))
    return hk.Linear(10, w_init=w_init)(x.mean((1, 2)))

  images = jax.random.normal(jax.random.key(0), [3, 2, 2, 3])
  report = kernel_report(forward, images, activation=activation, seeds=2)
  assert report.verdict is Verdict.TOO_NARROW
  assert report.narrowness == pytest.approx(50 / 32)
  assert "50 layers" in report.findings[0].evidence


@pytest.mark.parametrize(
  ("activation", "verdict"),
  [
    (tatnet.TransformedActivation("relu", output_scale=2.0), Verdict.EXPLODES),
    ("relu", Verdict.VANISHES),
    (tatnet.TransformedActivation("tanh", weight_scale=2.5), Verdict.CHAOTIC),
    (shaped("tanh", tatnet.DKS(), 30), Verdict.WELL_SHAPED),
  ],
)
def test_verdicts(activation, verdict):
  pairs = input_pairs([0.0, 0.5], (64,))
  report = kernel_report(mlp(64, 30), pairs, activation=activation, seeds=2)
  assert report.verdict is verdict
  assert f"Verdict: {verdict.value}" in str(report)


def test_weights_that_the_maps_do_not_know_of():
  pairs = input_pairs([0.0, 0.5], (128,))
  report = kernel_report(mlp(128, 30, scale=2.5), pairs, activation="tanh", seeds=3)
  assert {finding.verdict for finding in report.findings} >= {Verdict.CHAOTIC, Verdict.DEPARTS}
  assert "ScaledUniformOrthogonal" in str(report)


def pooling(pool):
  def forward(x, activation):
    for width in (64, 64, 64):
      w_init = tatnet.ScaledUniformOrthogonal()
      x = pool(activation(hk.Conv2D(width, 1, w_init=w_init)(x)))
    return hk.Linear(10)(activation(hk.Linear(64)(x.mean((1, 2)))))

  return forward


def test_what_the_trace_warned_of_is_named_before_weights_are_blamed():
  forward = pooling(lambda x: hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"))
  with pytest.warns(tatnet.TopologyWarning, match="max pooling"):
    report = kernel_report(forward, input_pairs([0.0], (8, 8, 64)), activation="tanh", seeds=3)
  assert any("max pooling" in item for item in report.tolerated)
  departure = next(f for f in report.findings if f.verdict is Verdict.DEPARTS)
  before, after = departure.evidence.split("If that is not the cause")
  assert "max pooling at" in before
  assert "weights drawn" not in before
  assert "weights drawn" in after
  assert "The trace warned of max pooling at" in str(report)


@pytest.mark.parametrize(("factor", "is_off"), [(100.0, True), (0.01, True), (2.0, False)])
def test_inputs_of_another_size(factor, is_off):
  x = factor * input_pairs([0.0, 0.5], (64,)).inputs
  report = kernel_report(mlp(64, 8), x, activation=shaped("leaky_relu", tatnet.TAT(0.6), 8))
  sizes = [f for f in report.findings if f.verdict is Verdict.OFF_SCALE]
  assert bool(sizes) is is_off
  if is_off:
    assert report.verdict is Verdict.OFF_SCALE
    assert "as if q were 1" in sizes[0].evidence
    assert "per_location_normalize" in str(report)


def test_exploding_beyond_the_range_of_numbers():
  act = tatnet.TransformedActivation("relu", output_scale=10.0)
  report = kernel_report(mlp(16, 60), input_pairs([0.0], (16,)), activation=act, seeds=2)
  assert report.verdict is Verdict.EXPLODES
  assert "explodes" in str(report)
  assert len(report_figure(report).axes) == 5


def test_figure(relu, tmp_path):
  figure = report_figure(relu)
  assert [axes.get_title() for axes in figure.axes] == [
    "From the first layer to the output",
    "q and c by depth",
    "Cosines at layer 100",
    "Gradient norm by depth",
    "",  # the second scale of q and c
  ]
  figure.savefig(tmp_path / "report.png")
  assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_figure_without_matplotlib(relu, monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name.startswith("matplotlib"):
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ImportError, match="pip install matplotlib"):
    report_figure(relu)


def test_text_has_a_row_for_a_short_networks_every_layer(relu):
  text = str(kernel_report(mlp(32, 5), input_pairs([0.0], (32,)), activation="tanh", seeds=2))
  assert rows(text) == [1, 2, 3, 4, 5]
  assert len(rows(str(relu))) < 30


def rows(text):
  return [int(line[:5]) for line in text.splitlines() if line[:5].strip().isdigit()]


def one_layer(x, activation):
  return hk.Linear(3)(activation(hk.Linear(8)(x)))


@pytest.mark.parametrize(
  ("forward", "inputs", "options", "error", "message"),
  [
    (one_layer, jnp.ones([1, 8]), {}, ValueError, "two or more"),
    (one_layer, jnp.ones([4]), {}, ValueError, "two or more"),
    (one_layer, jnp.ones([4, 8], jnp.int32), {}, TypeError, "int32"),
    (one_layer, [1.0, 2.0], {}, TypeError, "list"),
    (one_layer, jnp.zeros([4, 8]), {}, ValueError, "finite numbers above 0"),
    (one_layer, jnp.ones([4, 8]), {"seeds": 0}, ValueError, "seeds=0"),
    (one_layer, jnp.ones([4, 8]), {"activation": "rleu"}, ValueError, "relu"),
    (lambda x, activation: hk.Linear(3)(x), jnp.ones([4, 8]), {}, ValueError, "No call"),
    (lambda x, activation: activation(x), jnp.ones([4, 8]), {}, tatnet.TopologyError, "raw input"),
  ],
)
def test_bad_arguments(forward, inputs, options, error, message):
  with pytest.raises(error, match=message):
    kernel_report(forward, inputs, **{"activation": "tanh", "seeds": 2, **options})


def test_constructed_pairs():
  pairs = input_pairs([-1.0, 0.3, 1.0], (4, 5, 3), jax.random.key(1))
  x = np.asarray(pairs.inputs, np.float64)
  np.testing.assert_allclose(np.mean(x**2, -1), 1, rtol=1e-5)
  cosines = np.mean(x[0::2] * x[1::2], -1)
  expected = np.broadcast_to([[[-1.0]], [[0.3]], [[1.0]]], (3, 4, 5))
  np.testing.assert_allclose(cosines, expected, atol=1e-5)


@pytest.mark.parametrize(("cosines", "shape"), [([1.2], (8,)), ([], (8,)), ([0.5], (8, 1))])
def test_bad_pairs(cosines, shape):
  with pytest.raises(ValueError, match="expected"):
    input_pairs(cosines, shape)


def test_tokens_that_are_mixed_are_for_another_report():
  network = tatnet.nets.create(
    "vision_transformer", 4, depth=2, width=8, heads=2, context=4, patch=1, method=tatnet.TAT(0.3)
  )
  images = jax.random.normal(jax.random.key(0), [3, 2, 2, 5])
  with pytest.raises(ValueError, match=r"2 attention layers that mix tokens.*token_report"):
    kernel_report(network.forward, images, activation=network.activation, seeds=1)
