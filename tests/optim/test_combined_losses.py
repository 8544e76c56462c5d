"""Weights, means and several outputs reach the loss and its curvature alike."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kfac_references import quick_jit

from tatnet import optim
from tatnet.optim import losses

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(3, 2, 4))  # examples, locations, classes
LABELS = RNG.integers(0, 4, (3, 2))
BY_EXAMPLE, BY_LOCATION = np.array([2.0, 0.0, 0.5]), RNG.uniform(size=(3, 2))
SOFTMAX, SQUARED = optim.SoftmaxCrossEntropy(), optim.SquaredError()


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def cross_entropies(outputs):
  return optax.softmax_cross_entropy_with_integer_labels(outputs, LABELS)


CASES = {
  "by example": (
    optim.Weighted(SOFTMAX),
    (LABELS, BY_EXAMPLE),
    lambda z: (BY_EXAMPLE[:, None] * cross_entropies(z)).sum(1),
  ),
  "by location": (
    optim.Weighted(SOFTMAX),
    (LABELS, BY_LOCATION),
    lambda z: (BY_LOCATION * cross_entropies(z)).sum(1),
  ),
  "mean": (optim.MeanOverLocations(SOFTMAX), LABELS, lambda z: cross_entropies(z).mean(1)),
  "weighted mean": (
    optim.Weighted(optim.MeanOverLocations(SOFTMAX)),
    (LABELS, BY_LOCATION),
    lambda z: (BY_LOCATION * cross_entropies(z)).mean(1),
  ),
  "mean of weighted": (
    optim.MeanOverLocations(optim.Weighted(SOFTMAX)),
    (LABELS, BY_LOCATION),
    lambda z: (BY_LOCATION * cross_entropies(z)).mean(1),
  ),
  "squared error": (
    optim.Weighted(SQUARED),
    (np.zeros((3, 2, 4)), BY_LOCATION),
    lambda z: (BY_LOCATION[..., None] * jnp.square(z)).sum((1, 2)) / 2,
  ),
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_values_are_those_of_the_formulas(name):
  loss, targets, by_hand = CASES[name]
  targets = jax.tree.map(jnp.asarray, targets)
  np.testing.assert_allclose(
    loss.per_example(jnp.asarray(OUTPUTS), targets), by_hand(OUTPUTS), rtol=1e-12
  )


@every_case
def test_root_squares_to_the_hessian_of_the_formula(name):
  loss, targets, by_hand = CASES[name]
  targets = jax.tree.map(jnp.asarray, targets)
  expected = jax.hessian(lambda z: by_hand(z).sum())(jnp.asarray(OUTPUTS)).reshape(24, 24)
  root = [
    losses.hessian_root(loss, jnp.asarray(OUTPUTS), e.reshape(OUTPUTS.shape), targets)
    for e in jnp.eye(24)
  ]
  root = np.stack([r.reshape(-1) for r in root], axis=1)
  np.testing.assert_allclose(root @ root.T, expected, atol=1e-12)


@every_case
def test_sampled_gradients_have_the_same_covariance(name):
  loss, targets, by_hand = CASES[name]
  targets = jax.tree.map(jnp.asarray, targets)
  expected = jax.hessian(lambda z: by_hand(z).sum())(jnp.asarray(OUTPUTS)).reshape(24, 24)
  keys = jax.random.split(jax.random.key(0), 20_000)
  samples = quick_jit(
    jax.vmap(lambda key: losses.fisher_sample(loss, key, jnp.asarray(OUTPUTS), targets))
  )(keys).reshape(len(keys), 24)
  # Bounded gradients of size one: six standard deviations.
  np.testing.assert_allclose(
    samples.T @ samples / len(keys), expected, atol=6 * np.abs(samples).max() ** 2 / 141
  )


def test_masked_examples_are_as_if_they_were_not_there():
  network = hk.transform(lambda x: hk.Linear(4, name="l")(x))
  params = {"l": {"w": jnp.asarray(RNG.normal(size=(2, 4))), "b": jnp.zeros(4)}}
  x, y = RNG.normal(size=(6, 2)), RNG.integers(0, 4, 6)
  mask = np.array([1.0, 1, 1, 0, 0, 0])

  def outputs_factor(loss, x, y, curvature):
    evaluate = optim.value_grad_and_factors(network, loss, curvature=curvature)
    factors = jax.vmap(lambda k: evaluate(params, x, y, key=k).factors.layers["l"]["outputs"])
    return quick_jit(factors)(jax.random.split(jax.random.key(0), 4000)).mean(0)

  for curvature in ("fisher", "gauss-newton"):
    masked = outputs_factor(optim.Weighted(SOFTMAX), x, (y, mask), curvature)
    alone = outputs_factor(SOFTMAX, x[:3], y[:3], curvature)
    np.testing.assert_allclose(masked, alone / 2, atol=0.02)


def test_joint_loss_of_two_heads_and_an_auxiliary_output():
  class Heads(hk.Module):
    def __call__(self, x):
      h = jnp.tanh(hk.Linear(3, name="body")(x))
      return {"a": hk.Linear(4, name="a")(h), "b": hk.Linear(1, name="b")(h), "hidden": h}

  network = hk.transform(lambda x: Heads(name="net")(x))
  x = RNG.normal(size=(5, 2))
  params = network.init(jax.random.key(0), jnp.asarray(x))
  targets = {"a": RNG.integers(0, 4, 5), "b": RNG.normal(size=(5, 1)), "hidden": None}
  loss = optim.Joint({"a": SOFTMAX, "b": SQUARED, "hidden": None})
  evaluate = optim.value_grad_and_factors(network, loss, curvature="empirical")
  result = quick_jit(evaluate)(params, x, targets)

  def by_hand(params, shift=0.0):
    p = {name.split("/")[1]: own for name, own in params.items()}
    h = jnp.tanh(x @ p["body"]["w"] + p["body"]["b"] + shift)
    z, v = h @ p["a"]["w"] + p["a"]["b"], h @ p["b"]["w"] + p["b"]["b"]
    logp = jax.nn.log_softmax(z)[jnp.arange(5), targets["a"]]
    return (jnp.square(v - targets["b"]).sum(-1) / 2 - logp).mean()

  np.testing.assert_allclose(result.loss, by_hand(params), rtol=1e-6)
  own = 5 * jax.grad(lambda shift: by_hand(params, shift))(jnp.zeros((5, 3)))
  np.testing.assert_allclose(
    result.factors.layers["net/body"]["outputs"], own.T @ own / 5, rtol=1e-5, atol=1e-8
  )
  for curvature in ("fisher", "gauss-newton"):
    evaluate = optim.value_grad_and_factors(network, loss, curvature=curvature)
    assert set(evaluate(params, x, targets, key=jax.random.key(0)).factors.layers) == set(params)


def test_loss_of_its_own_with_the_curvature_of_another_is_refused():
  class Own(optim.SoftmaxCrossEntropy):
    def per_example(self, outputs, targets):
      return 2 * super().per_example(outputs, targets)

  network = hk.transform(lambda x: hk.Linear(4, name="l")(x))
  params = {"l": {"w": jnp.ones((2, 4)), "b": jnp.zeros(4)}}
  x, y = jnp.ones((3, 2)), jnp.zeros(3, int)
  for curvature, method in (("fisher", "fisher_sample"), ("gauss-newton", "hessian_root")):
    evaluate = optim.value_grad_and_factors(network, Own(), curvature=curvature)
    with pytest.raises(TypeError, match=f"Own has a loss of its own and the {method} of Softmax"):
      evaluate(params, x, y, key=jax.random.key(0))
  empirical = optim.value_grad_and_factors(network, Own(), curvature="empirical")
  assert empirical(params, x, y).loss > 0


def test_weights_among_the_targets_of_a_likelihood_are_refused():
  loss = optim.NegativeLogLikelihood(
    log_prob=lambda out, t: -t[1] * optax.softmax_cross_entropy_with_integer_labels(out, t[0]),
    sample=lambda key, out: (jax.random.categorical(key, out), jnp.ones(len(out))),
  )
  with pytest.raises(ValueError, match=r"sample does not draw \[1\] of its targets"):
    loss.fisher_sample(jax.random.key(0), jnp.zeros((3, 4)))


@pytest.mark.parametrize(
  ("loss", "targets", "error", "match"),
  [
    (optim.Weighted(SOFTMAX), jnp.zeros(3, int), TypeError, r"expected \(targets, weights\)"),
    (optim.Weighted(SOFTMAX), (LABELS, np.ones((3, 5))), ValueError, "weights of shape"),
    (optim.Joint((SOFTMAX, None)), LABELS, TypeError, "expected a tuple or a dictionary"),
    (
      optim.MeanOverLocations(optim.NegativeLogLikelihood(jnp.add, jnp.add)),
      LABELS,
      TypeError,
      "expected a method per_location",
    ),
  ],
)
def test_what_does_not_fit_is_refused(loss, targets, error, match):
  with pytest.raises(error, match=match):
    loss.per_example(jnp.asarray(OUTPUTS), targets)
