"""What breaks the rules of kernel shaping is found: what it is, where, and what to do."""

import inspect

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

INPUT = jax.ShapeDtypeStruct((4, 6, 8), jnp.float32)  # batch, locations, features
SQUARES = [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 6


def findings_of(call):
  with pytest.raises(tatnet.TopologyError) as caught:
    call()
  error = caught.value
  assert str(len(error.findings)) in str(error).splitlines()[0]
  for finding in error.findings:
    assert finding.remedy
    for text in (finding.kind, finding.place, finding.what, finding.remedy):
      assert text in str(error)
  return error.findings


def findings_in(apply, parameters=SQUARES):
  return findings_of(lambda: tatnet.trace_apply(apply, parameters, INPUT))


# Every function breaks one rule, in the line that says so.


def plain_residual(w, x, activation):
  x = x @ w[0]
  return x + activation(x) @ w[1]  # here: sum not normalised: 1, 1, whose squares add to 2


def activated_input(w, x, activation):
  return activation(x) @ w[0]  # here: nonlinearity without weights before it: the raw input


def activated_pooled_input(w, x, activation):
  x = x.mean(axis=1)
  return jnp.tanh(x) @ w[0]  # here: nonlinearity without weights before it: the raw input


def activated_twice(w, x, activation):
  x = activation(x @ w[0])
  return activation(x)  # here: nonlinearity without weights before it: output of a nonlinearity


def activated_twice_with_a_lone_one(w, x, activation):
  x = activation(x @ w[0])
  x = x.reshape(4, 2, 3, 8).transpose(0, 2, 1, 3)[:, ::2]
  x = jnp.tanh(x)  # here: nonlinearity without weights before it: output of a nonlinearity
  return x @ w[1]


def activated_blurred(w, x, activation):
  window, layout = np.array([1, 2, 1.0]).reshape(3, 1, 1) / 4, ("NWC", "WIO", "NWC")
  x = jax.lax.conv_general_dilated(
    activation(x @ w[0]), np.tile(window, (1, 1, 8)), (1,), "SAME", None, None, layout, 8
  )
  return activation(x)  # here: nonlinearity without weights before it: output of a nonlinearity


def activated_sum_of_activated(w, x, activation):
  x = 0.6 * activation(x @ w[0]) + 0.8 * activation(x @ w[1]) @ w[2]
  y = activation(activation(x @ w[3]))  # here: nonlinearity without weights before it: output of
  return y @ w[4]


def branch_that_ends_with_an_activation(w, x, activation):
  x = x @ w[0]
  return 0.6 * activation(x @ w[1]) + 0.8 * x  # here: dependent branches: neither ends with weights


def sum_with_itself(w, x, activation):
  x = x @ w[0]
  return activation(0.6 * x + 0.8 * jnp.flip(x, 1))  # here: dependent branches: copy of itself


def tied(w, x, activation):
  x = activation(x @ w[0])
  return x @ w[0].T  # here: tied weights: the parameter 0 was already used


def tied_in_part(w, x, activation):
  x = activation(x @ w[0])
  x = activation(x @ w[1][:, :4])
  return x @ w[0][2:6]  # here: tied weights: the parameter 0[2:6,0:8] was already used


def gate(w, x, activation):
  x, y = x @ w[0], x @ w[1]
  return activation(x * jax.nn.sigmoid(y)) @ w[2]  # here: gating: multiplied entry by entry


def ratio(w, x, activation):
  return (x @ w[0]) / (2 + (x @ w[1]) ** 2)  # here: gating: multiplied entry by entry


def maximum_of_two(w, x, activation):
  return jnp.maximum(x @ w[0], x @ w[1])  # here: unknown combination: combined by max


def softmax_of_a_score(w, x, activation):
  y = jax.nn.softmax(x @ w[0]) @ w[1]  # here: softmax attention: mixed by the softmax
  return activation(y)


def softmax_gate(w, x, activation):
  gate = jax.nn.softmax(x @ w[0])
  return activation(gate * (x @ w[1]))  # here: softmax attention: mixed by the softmax


def bilinear(w, x, activation):
  x, y = x @ w[0], x @ w[1]
  return jnp.einsum("bic,bjc->bij", x, y)  # here: product of two signals: multiplies two signals


def while_loop(w, x, activation):
  small, layer = (lambda x: jnp.sum(x) < 10), (lambda x: activation(x @ w[0]))
  return jax.lax.while_loop(small, layer, x)  # here: data-dependent control flow: a while loop


def branch_on_a_value(w, x, activation):
  layers = (lambda x: activation(x @ w[0]), lambda x: x @ w[1])
  return jax.lax.cond(x.sum() > 0, *layers, x)  # here: data-dependent control flow: a conditional


def sorting(w, x, activation):
  return activation(jnp.sort(x @ w[0])) @ w[1]  # here: unknown operation: the primitive sort


def running_sum(w, x, activation):
  return activation(jnp.cumsum(x @ w[0], axis=0))  # here: unknown operation: the primitive cumsum


def factor(w, x, activation):
  return activation(2 * (x @ w[0]))  # here: q is not 1 at an activation: q = 4


def lone_before_marked(w, x, activation):
  x = jax.nn.relu(x @ w[0]) @ w[1]
  return activation(x)  # here: q is not 1 at an activation: q = 0.5


def offset(w, x, activation):
  return activation(x @ w[0] + 0.1)  # here: constant added to a signal: the number 0.1


def positions(w, x, activation):
  x = activation(x @ w[0]) + np.arange(8.0)  # here: constant array: combined with an array
  return x @ w[1]


def fixed_mask(w, x, activation):
  x = (x @ w[0]) * (np.arange(8) % 2)  # here: constant array: multiplied by an array
  return activation(x)


def noise(w, x, activation):
  x = x @ w[0] + jax.random.normal(jax.random.key(0), x.shape)  # here: noise: random numbers
  return activation(x)


def mean_over_features(w, x, activation):
  x = activation(x @ w[0])
  return jnp.mean(x, axis=-1, keepdims=True) @ w[1][:1]  # here: pooling over features: vanishing


def step(w, x, activation):
  return (x @ w[0] > 0) * 1.0 @ w[1]  # here: discontinuous nonlinearity: jumps


def cases(w, x, activation):
  x = x @ w[0]
  where, what = [x > 1, x > 0], [jnp.tanh(x), x]
  x = jnp.select(where, what)  # here: conditions side by side: nested jnp.where
  return x @ w[1]


def pieces(w, x, activation):
  x = x @ w[0]
  x = jnp.piecewise(x, [x < 0], [jnp.expm1, lambda x: x])  # here: conditions side by side: nested
  return activation(x @ w[1])


BROKEN = [
  plain_residual, activated_input, activated_pooled_input, activated_twice,
  activated_twice_with_a_lone_one, activated_blurred, activated_sum_of_activated, branch_that_ends_with_an_activation,
  sum_with_itself, tied, tied_in_part, gate, ratio, maximum_of_two, softmax_of_a_score, softmax_gate, bilinear,
  while_loop, branch_on_a_value, sorting, running_sum, factor, lone_before_marked, offset,
  positions, fixed_mask, noise, mean_over_features, step,
  cases, pieces,
]  # fmt: skip


@pytest.mark.parametrize("apply", BROKEN, ids=lambda apply: apply.__name__)
def test_one_broken_rule(apply):
  lines, start = inspect.getsourcelines(apply)
  ((number, line),) = [(i, line) for i, line in enumerate(lines, start) if "# here: " in line]
  kind, what = line.strip().split("# here: ")[1].split(": ", 1)
  (finding,) = findings_in(apply)
  assert finding.kind == kind
  assert finding.place.startswith(f"test_findings.py:{number} (")
  assert what in finding.what + finding.remedy


def test_shared_weights_in_two_branches():
  def apply(w, x, activation):
    x = x @ w[0]
    return 0.6 * x @ w[1] + 0.8 * activation(x) @ w[1]

  (dependent,) = findings_in(apply)
  assert dependent.kind == "dependent branches"
  assert "end with the same weights" in dependent.what


def test_attention_is_said_not_to_be_covered():
  def apply(w, x, activation):
    scores = jnp.einsum("bic,bjc->bij", x @ w[0], x @ w[1])
    return activation(jax.nn.softmax(scores) @ (x @ w[2]) @ w[3])

  findings = findings_in(apply)
  assert "softmax attention" in {finding.kind for finding in findings}
  assert any("not covered" in finding.remedy for finding in findings)


def test_everything_at_once():
  def apply(w, x, activation):
    x = activation(x)
    x = 0.5 * (x @ w[0]) + activation(x @ w[1]) @ w[2]
    x = activation(jnp.cumsum(x, axis=0)) @ w[3]
    x = jax.lax.cond(x[0, 0, 0] > 0, lambda x: x, activation, x) @ w[4]
    return jnp.sort(x * (x @ w[0]))

  assert sorted(finding.kind for finding in findings_in(apply)) == [
    "data-dependent control flow",
    "gating",
    "nonlinearity without weights before it",
    "sum not normalised",
    "tied weights",
    "unknown operation",
    "unknown operation",
  ]


def test_the_same_rule_in_many_places_is_one_paragraph():
  class Block(hk.Module):
    def __call__(self, x, activation):
      return x + hk.Linear(8)(activation(x))

  def forward(x, activation):
    x = hk.Linear(8)(x)
    for _ in range(5):
      x = Block()(x, activation)
    return x

  findings = findings_of(lambda: tatnet.trace(forward, INPUT))
  assert [finding.place for finding in findings] == [
    "block", *(f"block_{i}" for i in range(1, 5))
  ]  # fmt: skip
  assert {finding.kind for finding in findings} == {"sum not normalised"}
  text = str(tatnet.TopologyError(findings))
  assert text.count("found:") == text.count("do:") == 1
  assert "at 5 places" in text


@pytest.mark.parametrize(
  "pool", [lambda x: x.max(axis=1), lambda x: hk.max_pool(x, (2, 1), 1, "SAME")]
)
def test_max_pooling_is_only_a_warning(pool):
  def apply(w, x, activation):
    return activation(pool(activation(x @ w[0])) @ w[1])

  with pytest.warns(tatnet.TopologyWarning, match=r"max pooling at test_findings\.py"):
    assert tatnet.trace_apply(apply, SQUARES, INPUT) == tatnet.chain(2)


def test_warnings_come_with_errors():
  def apply(w, x, activation):
    return activation(x @ w[0]).max(axis=1) @ w[0]

  with pytest.warns(tatnet.TopologyWarning), pytest.raises(tatnet.TopologyError):
    tatnet.trace_apply(apply, SQUARES, INPUT)
