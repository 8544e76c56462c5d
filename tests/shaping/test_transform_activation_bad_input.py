"""Wrong arguments raise a ValueError or TypeError: what was given, what was expected, what to do."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

DKS, TAT, EOC = tatnet.DKS, tatnet.TAT, tatnet.EOC
CHAIN, SHAPING = tatnet.chain(49), DKS()


def solve(activation="tanh", topology=CHAIN, method=SHAPING):
  return tatnet.transform_activation(activation, topology, method)


def check(error, call, *fragments):
  with pytest.raises(error) as caught:
    call()
  # No subclass of another meaning, such as a UnicodeError or a JAX tracer error.
  assert type(caught.value) is error
  message = str(caught.value)
  assert [fragment for fragment in fragments if fragment not in message] == [], message


@pytest.mark.parametrize(
  ("name", "nearest"),
  [
    ("tanhh", "tanh"),
    ("leaky-relu", "leaky_relu"),
    ("leakyrelu", "leaky_relu"),
    ("gelu_exat", "gelu_exact"),
    ("soft_plus", "softplus"),
    ("Tanh", "tanh"),
    ("ReLU", "relu"),
    ("GELU", "gelu"),
  ],
)
def test_an_unknown_name_gets_a_suggestion(name, nearest):
  check(
    ValueError, lambda: solve(name), f"Unknown activation {name!r}", f"Did you mean {nearest!r}"
  )


def test_a_hopeless_name_gets_the_list():
  check(ValueError, lambda: solve("qqq"), "'qqq'", "Known names: asinh, atan", "tatnet.Activation(")


@pytest.mark.parametrize("activation", [None, 3, 0.5, ["tanh"]], ids=repr)
def test_something_that_is_no_activation(activation):
  kind = type(activation).__name__
  check(TypeError, lambda: solve(activation), kind, "expected a name, an elementwise JAX function")


def test_an_activation_that_is_already_transformed():
  act = solve("tanh")
  check(TypeError, lambda: solve(act), "already transformed", "input_scale=", "Expected a name")


@pytest.mark.parametrize("others", [(), ("gelu",)])
def test_several_activations_of_which_one_is_already_transformed(others):
  def call():
    tatnet.transform_activations((solve("tanh"), *others), CHAIN, DKS())

  check(TypeError, call, "already transformed", "Expected a name")


def test_relu_under_tat():
  check(ValueError, lambda: solve("relu", method=TAT()), "'relu'", "expected 'leaky_relu'")


@pytest.mark.parametrize("name", ["selu", "hard_tanh", "relu6"])
def test_kinked_activations_under_tat(name):
  check(ValueError, lambda: solve(name, method=TAT()), name, "slope jumps", "Use tatnet.DKS")


def test_leaky_relu_beside_others_under_tat():
  def call():
    tatnet.transform_activations(("leaky_relu", "tanh"), CHAIN, TAT())

  check(ValueError, call, "TAT got leaky_relu, tanh", "Expected leaky_relu alone", "DKS can mix")
  mixed = tatnet.transform_activations(("leaky_relu", "tanh"), CHAIN, DKS())
  assert sorted(mixed) == ["leaky_relu", "tanh"]


@pytest.mark.parametrize(
  ("names", "error", "fragment"),
  [
    ("tanh", TypeError, "names is the string 'tanh'; expected several"),
    ((), ValueError, "names is empty; expected at least one"),
    (3, TypeError, "names"),
    ((tatnet.Activation(jnp.sin, name="f"), tatnet.Activation(jnp.cos, name="f")),
     ValueError, "two activations called 'f'"),
  ],
)  # fmt: skip
def test_names_of_several_activations(names, error, fragment):
  check(error, lambda: tatnet.transform_activations(names, CHAIN, DKS()), fragment)


@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, math.nan, math.inf, -math.inf])
def test_eta_out_of_range(value):
  given, expected = f"TAT got eta={value}", "expected a number above 0 and below 1"
  check(ValueError, lambda: TAT(eta=value), given, expected, "0.9 is usual")


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize(
  ("method", "field", "low"), [(TAT, "tau", 0), (DKS, "zeta", 1), (DKS, "q_slope", 0)]
)
def test_targets_out_of_range(method, field, low, value):
  given = f"{method.__name__} got {field}={value}"
  check(ValueError, lambda: method(**{field: value}), given, f"expected a number above {low}")


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf])
def test_sigma_b_out_of_range(value):
  check(ValueError, lambda: EOC(value), f"EOC got sigma_b={value}", "expected a number")


@pytest.mark.parametrize("value", ["0.9", None, True, 1j, [0.9], np.array([0.9])], ids=repr)
@pytest.mark.parametrize(
  ("method", "field"),
  [(TAT, "eta"), (TAT, "tau"), (DKS, "zeta"), (DKS, "q_slope"), (EOC, "sigma_b")],
)
def test_targets_of_another_type(method, field, value):
  given = f"{method.__name__} got {field}={value!r}"
  check(TypeError, lambda: method(**{field: value}), given, "expected a number")


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5)])
def test_numpy_scalars_are_numbers(value):
  assert TAT(eta=value) == TAT(eta=float(value))
  assert EOC(value) == EOC(float(value))


@pytest.mark.parametrize("method", [TAT, DKS, EOC])
def test_a_class_in_place_of_a_record(method):
  name = method.__name__
  check(
    TypeError, lambda: solve(method=method), f"the class {name}", f"expected a record: {name}()"
  )


@pytest.mark.parametrize("method", ["TAT", None, 0.9], ids=repr)
def test_something_that_is_no_method(method):
  check(TypeError, lambda: solve(method=method), f"method is {method!r}", "expected tatnet.TAT()")


@pytest.mark.parametrize("topology", [49, "chain", None, [CHAIN], (CHAIN, CHAIN), 0.5], ids=repr)
def test_something_that_is_no_topology(topology):
  kind = type(topology).__name__
  check(TypeError, lambda: solve(topology=topology), f"({kind})", "tatnet.chain(49)", "f(x, r)")


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
@pytest.mark.parametrize(
  "topology",
  [tatnet.chain, lambda x: x, lambda x, r: "text", lambda x, r: None, tatnet.Topology],
  ids=["chain itself", "no r", "text", "nothing", "the class"],
)
def test_a_hand_written_function_of_another_form(topology, activation):
  with pytest.raises(
    (ValueError, TypeError), match=r"[Ff]unction.* f\(x, r\)|hand-written f\(x, r\)"
  ):
    solve(activation, topology, TAT())


@pytest.mark.parametrize(
  ("topology", "slope"), [(lambda x, r: x, "1"), (lambda x, r: 3 * r(x), "3")]
)
def test_a_hand_written_function_without_a_solution(topology, slope):
  check(ValueError, lambda: solve(topology=topology), "zeta=1.5", f"slope is {slope}", "apply r")


def test_a_layer_with_something_that_is_no_activation():
  def call():
    solve(topology=tatnet.sequence(CHAIN, tatnet.nonlinear("tanh")))

  with pytest.raises((ValueError, TypeError), match=r"'tanh'.*expected"):
    call()


@pytest.mark.parametrize(
  ("activation", "topology", "method", "fragments"),
  [
    ("leaky_relu", tatnet.chain(33), TAT(0.99),
     ("eta=0.99", "33 nonlinear layers", "reach 0.9759", "eta below 0.9759", "deeper network")),
    ("leaky_relu", tatnet.chain(1), DKS(40.0),
     ("zeta=40", "C'(1) = 40", "reaches at most about", "deeper network")),
    ("hard_tanh", CHAIN, DKS(), ("zeta=1.5", "C'(1) = 1.00831", "at least", "another activation")),
    ("tanh", tatnet.chain(2), TAT(tau=50.0),
     ("tau=50", "C''(1) = 25", "at most", "deeper network", "another activation")),
    ("square", CHAIN, DKS(), ("square", "C(0) = 0 and Q'(1) = 1", "Choose another activation")),
  ],
)  # fmt: skip
def test_targets_out_of_reach(activation, topology, method, fragments):
  check(ValueError, lambda: solve(activation, topology, method), *fragments)


@pytest.mark.parametrize("c", [1.5, -1.01, math.nan, [0.0, 2.0]])
def test_a_cosine_out_of_range(c):
  for call in (lambda: tatnet.cmap(CHAIN, "tanh", c), lambda: tatnet.local_maps("tanh").C(c)):
    check(ValueError, call, "cosine similarity", "[-1, 1]")
