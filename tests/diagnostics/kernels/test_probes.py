"""What probes read, in every kind of model, against networks computed by hand."""

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

import tatnet
from tatnet.diagnostics import input_pairs, kernel_report

WIDTH = 6


def weights(shape, number=0):
  return np.random.default_rng([number, *shape]).normal(size=shape) / np.sqrt(shape[0])


class Dense(hk.Module):
  """A layer whose weights do not depend on random keys."""

  def __init__(self, size, number, name=None):
    super().__init__(name=name)
    self.size, self.number = size, number

  def __call__(self, x):
    shape = (x.shape[-1], self.size)
    init = hk.initializers.Constant(weights(shape, self.number))
    return x @ hk.get_parameter("w", shape, x.dtype, init=init)


def loop(x, activation):
  for number in (0, 1, 1, 1, 2):
    x = activation(Dense(WIDTH, number)(x))
  return Dense(1, 3)(x)


def stack(x, activation):
  x = activation(Dense(WIDTH, 0)(x))
  x = hk.experimental.layer_stack(3)(lambda x: activation(Dense(WIDTH, 1)(x)))(x)
  return Dense(1, 3)(activation(Dense(WIDTH, 2)(x)))


def nested(x, activation):
  def inner(x):
    return hk.experimental.layer_stack(1)(lambda x: activation(Dense(WIDTH, 1)(x)))(x)

  x = activation(Dense(WIDTH, 0)(x))
  x = hk.experimental.layer_stack(3)(inner)(x)
  return Dense(1, 3)(activation(Dense(WIDTH, 2)(x)))


class Inner(hk.Module):
  """Calls of the activation in a module, under remat, and inside a checkpoint."""

  def __call__(self, x, activation):
    x = activation(Dense(WIDTH, 1)(x))
    x = hk.remat(lambda x: activation(Dense(WIDTH, 1)(x)))(x)
    return jax.checkpoint(activation)(Dense(WIDTH, 1)(x))


def modules(x, activation):
  x = Inner()(activation(Dense(WIDTH, 0)(x)), activation)
  return Dense(1, 3)(activation(Dense(WIDTH, 2)(x)))


def by_hand(x):
  """q and c of both inputs, and norms of gradients of an output, of the five layers."""
  matrices = [weights((WIDTH, WIDTH), number) for number in (0, 1, 1, 1, 2)]
  seen = []
  for w in matrices:
    seen.append(x @ w)
    x = np.tanh(seen[-1])
  gradient = np.broadcast_to(weights((WIDTH, 1), 3).T, x.shape)
  norms = []
  for y, w in zip(reversed(seen), reversed(matrices), strict=True):
    gradient = gradient / np.cosh(y) ** 2
    norms.append(np.linalg.norm(gradient, axis=-1))
    gradient = gradient @ w.T
  lengths = [np.linalg.norm(y, axis=-1) for y in seen]
  cosines = [y[0] @ y[1] / (a * b) for y, (a, b) in zip(seen, lengths, strict=True)]
  return np.square(lengths) / WIDTH, np.array(cosines), np.array(norms[::-1])


@pytest.mark.parametrize("forward", [loop, stack, nested, modules])
def test_readings_are_those_computed_by_hand(forward):
  x = np.random.default_rng(5).normal(size=(2, WIDTH))
  q, c, norms = by_hand(x)
  report = kernel_report(forward, jnp.asarray(x, jnp.float32), activation="tanh", seeds=[3, 4])
  for seed in range(2):
    np.testing.assert_allclose(report.q_measured[:, seed], q, rtol=1e-5)
    np.testing.assert_allclose(report.c_measured[:, seed, 0], c, rtol=1e-4, atol=1e-6)
  # The direction of an output is random: two equal inputs have gradients in one ratio.
  x[1] = x[0]
  norms = by_hand(x)[2][:, 0]
  report = kernel_report(forward, jnp.asarray(x, jnp.float32), activation="tanh", seeds=1)
  measured = report.gradients_measured[:, 0]
  np.testing.assert_allclose(measured / measured[-1], norms / norms[-1], rtol=1e-5)


def test_double_precision():
  x = np.random.default_rng(5).normal(size=(2, WIDTH))
  with jax.enable_x64(True):
    report = kernel_report(stack, jnp.asarray(x), activation="tanh", seeds=1)
  np.testing.assert_allclose(report.q_measured[:, 0], by_hand(x)[0], rtol=1e-5)


def test_places():
  x = jnp.asarray(np.eye(2, WIDTH), jnp.float32)
  where = kernel_report(nested, x, activation="tanh", seeds=1).where
  stack = where[1].partition("/")[0]  # modules outside of all others have but a source line
  assert stack.startswith("test_probes.py:")
  assert where == [
    "activation_0",
    *(f"{stack}/{i}/0/activation_1" for i in range(3)),
    "activation_2",
  ]


def test_images_are_measured_at_every_location():
  def forward(x, activation):
    x = activation(hk.Conv2D(5, 1, w_init=hk.initializers.Constant(weights((1, 1, 3, 5))))(x))
    return hk.Linear(2)(x.mean((1, 2)))

  x = np.random.default_rng(0).normal(size=(3, 4, 4, 3))
  report = kernel_report(forward, jnp.asarray(x, jnp.float32), activation="tanh", seeds=1)
  y = x @ weights((1, 1, 3, 5))[0, 0]
  q = np.mean(y**2, -1)
  c = np.mean(y[0] * y[2], -1) / np.sqrt(q[0] * q[2])
  np.testing.assert_allclose(report.q_measured[0, 0], q.mean((1, 2)), rtol=1e-5)
  assert report.c_measured[0, 0, 1] == pytest.approx(c.mean(), abs=1e-6)  # of the pair 0, 2
  assert report.last_cosines.shape == (3 * 16,)


def test_branches_in_another_order_than_they_run():
  def linear(size, name):
    return hk.Linear(size, w_init=hk.initializers.VarianceScaling(), name=name)

  def forward(x, activation):
    x = linear(64, "stem")(x)
    first = activation(linear(64, "second")(activation(linear(64, "first")(x))))
    first = linear(64, "third")(first)
    # Runs last, and stands first in the sum.
    return linear(5, "logits")(0.8 * linear(64, "late")(activation(x)) + 0.6 * first)

  act = tatnet.TransformedActivation("relu", output_scale=2.0)
  report = kernel_report(forward, input_pairs([0.0], (64,)), activation=act, seeds=30)
  assert [int(place.rpartition("_")[-1]) for place in report.where] == [2, 0, 1]
  np.testing.assert_allclose(report.q_predicted.mean(1), [1, 1, 2], rtol=0.1)
  np.testing.assert_allclose(report.q_measured.mean((1, 2)), [1, 1, 2], rtol=0.2)


def convnet(x, activation):
  net = tatnet.nets.CifarResNet(8, 10, width=2, activation=activation, shortcut_weight=0.6)
  return net(x)


def dense_net(x, activation):
  return tatnet.nets.MLP(64, 7, 10, activation=activation, shortcut_weight=0.6, stacked=True)(x)


@pytest.mark.parametrize(
  ("forward", "topology", "widths"),
  [
    (
      convnet,
      tatnet.nets.CifarResNet.topology(8, shortcut_weight=0.6),
      [32] * 3 + [64, 64, 128, 128],
    ),
    (dense_net, tatnet.nets.MLP.topology(64, 7, shortcut_weight=0.6), [64] * 7),
  ],
)
def test_networks_with_shortcuts(forward, topology, widths):
  act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.5))
  images = jax.random.normal(jax.random.key(3), [6, 8, 8, 3])
  report = kernel_report(forward, images, activation=act, seeds=4)
  assert report.topology == topology
  assert list(report.widths) == widths
  difference = np.abs(report.c_measured.mean((1, 2)) - report.c_predicted.mean(1))
  assert np.all(difference < 2 * report.c_scatter / np.sqrt(4))
  assert not report.findings


def test_sixteen_bit_models_are_read_in_full_precision():
  class Half(hk.Module):
    def __call__(self, x, activation):
      return loop(x, activation)

  policy = jmp.get_policy("params=float32,compute=bfloat16,output=float32")

  def forward(x, activation):
    with hk.mixed_precision.push_policy(Half, policy):
      return Half()(x, activation)

  x = np.random.default_rng(5).normal(size=(2, WIDTH))
  q, c, _ = by_hand(x)
  report = kernel_report(forward, jnp.asarray(x, jnp.float32), activation="tanh", seeds=1)
  np.testing.assert_allclose(report.q_measured[:, 0], q, rtol=0.03)
  np.testing.assert_allclose(report.c_measured[:, 0, 0], c, atol=0.03)
  # Bits of bfloat16 would not do.
  assert np.all(report.c_measured.astype(jnp.bfloat16) != report.c_measured)


class Wrapper(hk.Module):
  def __init__(self, activation):
    super().__init__()
    self.activation = activation

  def __call__(self, x):
    return self.activation(x)


def same_module(x, activation):
  act = Wrapper(activation)
  return Dense(2, 0)(act(Dense(WIDTH, 1)(act(Dense(WIDTH, 0)(x)))))


def same_program(x, activation):
  act = jax.jit(activation)
  return Dense(2, 0)(act(Dense(WIDTH, 1)(act(Dense(WIDTH, 0)(x)))))


def loop_of_jax(x, activation):
  init = hk.initializers.RandomNormal()
  w = hk.get_parameter("w", [3, WIDTH, WIDTH], init=init)
  x, _ = jax.lax.scan(lambda x, w: (activation(x @ w), None), x, w)
  return Dense(2, 0)(x)


def no_gradient(x, activation):
  return Dense(2, 0)(jax.lax.stop_gradient(activation(Dense(WIDTH, 0)(x))))


@pytest.mark.parametrize("forward", [same_module, same_program, loop_of_jax, no_gradient])
def test_calls_that_cannot_be_told_apart(forward):
  with pytest.raises(ValueError, match=r"activation_0 cannot be told.* hk\.layer_stack"):
    kernel_report(forward, jnp.asarray(np.eye(3, WIDTH)), activation="tanh", seeds=1)


def test_one_example_at_a_time():
  def forward(x, activation):
    layer = Dense(WIDTH, 0)
    layer(x)
    return hk.vmap(lambda x: activation(layer(x)), split_rng=False)(x)

  with pytest.raises(ValueError, match=r"without jax\.vmap over examples"):
    kernel_report(forward, jnp.asarray(np.eye(3, WIDTH)), activation="tanh", seeds=1)
