"""Tokens of transformers that run: against the plan, by hand, and where they collapse."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.diagnostics import token_report

IDS = jnp.arange(8)[None]


def report_of(name, seeds=2, **options):
  network = tatnet.nets.create(
    name, 9, depth=3, width=64, heads=2, context=8, expansion=1.0, **options
  )
  schedule = network.options["attention"]
  report = token_report(
    lambda ids: network.forward(ids, network.activation),
    IDS,
    schedule=schedule if isinstance(schedule, tatnet.AttentionSchedule) else None,
    seeds=seeds,
  )
  return report, schedule


def test_a_planned_transformer_has_the_cosines_of_its_plan():
  report, schedule = report_of("transformer", 3, step=0.1)
  names = [layer.where for layer in report.layers]
  assert names == [f"transformer/block_{n}{end}" for n in (1, 2, 3) for end in ("/attention", "")]
  attention = report.layers[::2]
  assert [layer.planned for layer in attention] == [schedule.kernel(n) for n in range(3)]
  for n, layer in enumerate(attention):
    assert layer.cosine == pytest.approx(layer.planned, abs=0.07)
    assert layer.condition == pytest.approx(1, abs=1e-3)  # orthogonal
    diagonal = np.diagonal(schedule[n].as_matrix(8)).mean()
    assert layer.diagonal == pytest.approx(diagonal, abs=0.01)
  blocks = report.layers[1::2]
  assert [layer.planned for layer in blocks] == [schedule[1].before, schedule[2].before, None]
  assert all(layer.diagonal is layer.condition is None for layer in blocks)
  assert report.collapse is None
  assert "tokens stay apart" in str(report)


def test_rank_collapse_is_named():
  """Uniform averages leave tokens alike: by hand, so that it is known where."""

  def nearer_to_the_mean(share):
    return lambda y: y + share * (y.mean(1, keepdims=True) - y)

  def forward(x):
    for n in range(3):
      x = hk.to_module(nearer_to_the_mean(n))(f"attention_{n}")(x)
    return x

  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  report = token_report(forward, x, modules=r"attention_\d$", seeds=1)
  assert report.collapse == report.layers[1].where
  first, second, third = report.layers
  assert "rank collapse behind attention_1" in str(report)
  kernel = np.asarray(x @ x.swapaxes(1, 2)) / 16
  q = np.diagonal(kernel, axis1=1, axis2=2)
  cosines = kernel / np.sqrt(q[:, :, None] * q[:, None, :])
  assert first.q == pytest.approx(q.mean(), rel=1e-5)
  assert first.q_last == pytest.approx(q[:, -1].mean() / q[:, 0].mean(), rel=1e-5)
  assert first.cosine == pytest.approx(cosines[:, ~np.eye(5, dtype=bool)].mean(), abs=1e-5)
  assert second.cosine == pytest.approx(1, abs=1e-5)
  assert third.q_spread == 0


def test_haikus_own_attention_with_shortcuts_and_normalisation():
  def forward(x):
    for _ in range(2):
      y = hk.LayerNorm(-1, True, True)(x)
      x = x + hk.MultiHeadAttention(2, 8, w_init=hk.initializers.VarianceScaling(1.0))(y, y, y)
    return x

  report = token_report(forward, jax.random.normal(jax.random.key(0), (2, 5, 16)), seeds=1)
  assert [layer.where for layer in report.layers] == [
    "multi_head_attention",
    "multi_head_attention_1",
  ]
  assert all(layer.condition > 1 for layer in report.layers)
  assert all(0 < layer.diagonal < 0.5 for layer in report.layers)


def test_tokens_read_themselves_as_much_as_the_softmax_says():
  """Against the weights of the same network, by hand."""
  x = jax.random.normal(jax.random.key(3), (4, 6, 16))
  start = tatnet.nets.SoftmaxStart()

  def forward(x):
    return tatnet.nets.ShapedAttention(2, start, causal=True)(x)

  (layer,) = token_report(forward, x, seeds=1).layers
  params = hk.transform(forward).init(jax.random.split(jax.random.key(0), 1)[0], x)
  q, k = ((x @ params[f"attention/{name}"]["w"]).reshape(4, 6, 2, 8) for name in ("query", "key"))
  logits = jnp.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(8)
  weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones([6, 6], bool)), logits, -jnp.inf))
  expected = float(jnp.diagonal(weights, axis1=-2, axis2=-1).mean())
  assert layer.diagonal == pytest.approx(expected, abs=0.05)  # 384 signs


def test_the_diagonal_of_what_starts_as_the_identity_is_1():
  report, _ = report_of("transformer-shaped")
  assert [layer.diagonal for layer in report.layers[::2]] == pytest.approx([1.0] * 3, abs=1e-5)


def test_figure(tmp_path):
  for name in ("transformer", "transformer-prenorm"):
    report, _ = report_of(name, 1)
    _, cosine, itself = tatnet.diagnostics.token_figure(report).axes
    measured = cosine.get_lines()[0].get_ydata()
    np.testing.assert_array_equal(measured, [layer.cosine for layer in report.layers])
    assert len(cosine.get_lines()) == 1 + (name == "transformer")
    assert len(itself.get_lines()[0].get_ydata()) == 3


@pytest.mark.parametrize(
  ("arguments", "error", "part"),
  [
    ({"modules": "nothing"}, ValueError, "modules='nothing'; expected at least one"),
    ({"seeds": 0}, ValueError, "seeds=0"),
    ({"forward": 3}, TypeError, "before hk.transform"),
  ],
)
def test_bad_input(arguments, error, part):
  options = {"forward": lambda x: hk.LayerNorm(-1, True, True)(x), "inputs": jnp.ones([1, 3, 4])}
  options |= arguments
  with pytest.raises(error, match=part):
    token_report(options.pop("forward"), options.pop("inputs"), **options)
