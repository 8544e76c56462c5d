"""Every mistake gets an error that says what was given and what is expected."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import random_factors, random_params

import tatnet
from tatnet import optim

X = jnp.ones((4, 3))
LINEAR = hk.transform(lambda x: hk.Linear(2)(x))
PARAMS = {"dense": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}


def factors(params=PARAMS):
  return random_factors(params, np.random.default_rng(0))


def evaluate(network=LINEAR, x=X, y=None, loss=None, key=True, **options):
  """Abstractly: shapes are all that the errors are about."""
  if isinstance(network, hk.Transformed):
    params = random_params(network, *(x if isinstance(x, tuple) else (x,)))
  else:
    params = PARAMS
  run = optim.value_grad_and_factors(network, loss or optim.SquaredError(), **options)
  y = jnp.zeros((4, 2)) if y is None else y
  key = jax.random.key(0) if key else None
  return jax.eval_shape(lambda params: run(params, x, y, key=key), params)


@pytest.mark.parametrize(
  ("option", "expected"),
  [
    (
      {"curvature": "exact"},
      r"curvature='exact'; expected one of \('fisher', 'gauss-newton', 'emp",
    ),
    ({"sharing": "sum"}, "sharing='sum'; expected 'expand' or 'reduce'"),
    ({"uncovered": "ignore"}, "uncovered='ignore'; expected 'error' or 'identity'"),
  ],
)
def test_unknown_choice(option, expected):
  with pytest.raises(ValueError, match=expected):
    optim.value_grad_and_factors(LINEAR, optim.SquaredError(), **option)


def test_network_that_is_none():
  with pytest.raises(
    TypeError, match=r"got the network 3; expected what hk.transform returned, a module of"
  ):
    optim.value_grad_and_factors(3, optim.SquaredError())


@pytest.mark.parametrize("curvature", ["fisher", "gauss-newton"])
def test_missing_key(curvature):
  with pytest.raises(TypeError, match=f"curvature='{curvature}' needs a random key; expected key="):
    evaluate(key=False, curvature=curvature)


def test_inputs_that_disagree_in_the_size_of_the_batch():
  network = hk.transform(lambda a, b: hk.Linear(2)(a) + b.sum())
  with pytest.raises(
    ValueError, match=r"have \[3, 4\] examples along their leading axes; expected"
  ):
    evaluate(network, (X, jnp.ones((3, 3))))


def test_inputs_without_a_batch():
  network = hk.transform(lambda a: hk.Linear(2)(jnp.ones((4, 3)) * a))
  with pytest.raises(ValueError, match="have no examples along their leading axes; expected"):
    evaluate(network, jnp.ones(()))


def test_outputs_that_are_not_what_the_loss_takes():
  network = hk.transform(lambda x: (hk.Linear(2)(x), x))
  with pytest.raises(
    TypeError, match=r"SquaredError got outputs PyTreeDef\(\(\*, \*\)\); expected"
  ):
    evaluate(network)


def test_loss_that_is_no_number_for_each_example():
  loss = optim.NegativeLogLikelihood(lambda out, y: -jnp.square(out - y), lambda key, out: out)
  expected = r"The loss has the shape \(4, 2\) for outputs \(4, 2\) and a batch of 4 .* \(4,\)"
  with pytest.raises(ValueError, match=expected):
    evaluate(loss=loss)


def test_outputs_with_a_row_for_each_location():
  # Their mean is over locations too, while the factors would be sums over them.
  network = hk.transform(lambda x: hk.Linear(2)(x.reshape(-1, 3)))
  with pytest.raises(ValueError, match=r"The loss has the shape \(20,\) .* expected \(4,\)"):
    evaluate(network, jnp.ones((4, 5, 3)), jnp.zeros((20, 2)))


@pytest.mark.parametrize(
  ("loss", "y", "expected"),
  [
    (optim.SquaredError(), jnp.zeros(4), r"SquaredError got targets of shape \(4,\) for outputs"),
    (optim.SigmoidCrossEntropy(), jnp.zeros((4, 3)), r"SigmoidCrossEntropy got targets .*\(4, 3\)"),
    (optim.SoftmaxCrossEntropy(), jnp.zeros((4, 3)), r"SoftmaxCrossEntropy got targets .*\(4, 3\)"),
    (
      optim.SoftmaxCrossEntropy(),
      jnp.zeros((4, 2), int),
      r"got integer targets of shape \(4, 2\) for outputs of shape \(4, 2\); expected \(4,\)",
    ),
  ],
)
def test_targets_of_another_shape(loss, y, expected):
  with pytest.raises(ValueError, match=expected):
    evaluate(loss=loss, y=y)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_out_of_range(smoothing):
  with pytest.raises(ValueError, match=f"label_smoothing={smoothing}; expected a number in"):
    optim.SoftmaxCrossEntropy(label_smoothing=smoothing)


def test_square_root_of_an_unknown_hessian():
  loss = optim.NegativeLogLikelihood(lambda out, y: -out.sum(-1), lambda key, out: out)
  with pytest.raises(
    ValueError, match=r"root of its output Hessian is not known. Expected curvatur"
  ):
    evaluate(loss=loss, curvature="gauss-newton")


@pytest.mark.parametrize("make", [optim.scale_by_kfac, lambda **o: optim.kfac(0.1, **o)])
@pytest.mark.parametrize(
  ("name", "value", "expected"),
  [
    ("damping", 0.0, "a number above 0, or a schedule"),
    ("damping", -1e-3, "a number above 0, or a schedule"),
    ("damping", float("nan"), "a number above 0, or a schedule"),
    ("decay", 1.0, r"a number in \[0, 1\)"),
    ("decay", -0.1, r"a number in \[0, 1\)"),
    ("factors_every", 0, "an integer of at least 1"),
    ("inverse_every", 0, "an integer of at least 1"),
    ("inverse_every", 2.5, "an integer of at least 1"),
    ("norm_constraint", 0.0, "a number above 0, or None"),
    ("burn_in", -1, "an integer of at least 0"),
  ],
)
def test_number_out_of_range(make, name, value, expected):
  with pytest.raises(ValueError, match=f"^{name}={value!r}; expected {expected}"):
    make(**{name: value})


@pytest.mark.parametrize("make", [optim.scale_by_kfac, lambda **o: optim.kfac(0.1, **o)])
def test_unknown_treatment_of_what_is_not_covered(make):
  with pytest.raises(ValueError, match="uncovered='skip'; expected 'error' or 'identity'"):
    make(uncovered="skip")


def test_norm_constraint_without_learning_rate():
  with pytest.raises(ValueError, match=r"norm_constraint=0.001 without .* Expected learning_rate="):
    tatnet.scale_by_kfac(norm_constraint=1e-3)


def test_missing_factors():
  optimizer = tatnet.kfac(0.1)
  with pytest.raises(TypeError, match="'factors'"):
    optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("given", [None, {"dense": {}}, {"inputs": jnp.ones(3)}])
def test_factors_that_are_none(given):
  optimizer = tatnet.scale_by_kfac()
  expected = f"factors={type(given).__name__}; expected what a function made by"
  with pytest.raises(TypeError, match=expected):
    optimizer.update(PARAMS, optimizer.init(PARAMS), factors=given)


@pytest.mark.parametrize(
  ("layers", "expected"),
  [
    ({}, "  dense: no factors"),
    ({"dense": {"w": jnp.ones((4, 2)), "b": jnp.ones(2)}}, "  dense: factors of shapes .*5, 5"),
    (PARAMS | {"other": PARAMS["dense"]}, "  other: not a layer of the parameters"),
  ],
)
def test_factors_of_another_model(layers, expected):
  optimizer = tatnet.scale_by_kfac()
  with pytest.raises(ValueError, match=f"The factors are of another model:\n{expected}"):
    optimizer.update(PARAMS, optimizer.init(PARAMS), factors=factors(layers) if layers else empty())


def empty():
  return optim.Factors(jnp.ones(()), {})


@pytest.mark.parametrize(
  "params",
  [
    jnp.ones(3),
    {"w": jnp.ones((3, 2))},
    {"encoder": {"dense": {"w": jnp.ones((3, 2))}}},  # would be gradient descent, silently
    [PARAMS],
  ],
  ids=["array", "one level", "three levels", "list"],
)
def test_parameters_that_are_not_layers_of_arrays(params):
  with pytest.raises(
    TypeError, match=r"not laid out as \{layer: \{name: array\}\}; expected Haiku"
  ):
    tatnet.kfac(0.1).init(params)


def test_state_without_kfac():
  with pytest.raises(ValueError, match="got the state of an optimiser without scale_by_kfac"):
    optim.factors_due((jnp.zeros(()),))


@pytest.mark.parametrize("make", [lambda: optim.kfac(0.1), lambda: optim.scale_by_kfac()])
def test_state_that_a_checkpointer_has_made_dictionaries_of(make):
  state = make().init(PARAMS)
  parts = state if isinstance(state, optim.ScaleByKfacState) else state[0]
  restored = [parts._asdict(), *state[1:]]
  with pytest.raises(TypeError, match="state of the type dict; expected ScaleByKfacState, as init"):
    make().update(
      PARAMS, restored if parts is not state else restored[0], PARAMS, factors=factors()
    )
