"""Every solved activation meets its method's conditions, by quadrature outside the library."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import derivatives_of, expectation
from scipy.optimize import brentq
from topologies import resnet

import tatnet

# (function, its kinks), written down here again so as not to trust the library's own table.
BASES = {
  "tanh": (jnp.tanh, ()),
  "sigmoid": (jax.nn.sigmoid, ()),
  "erf": (jax.scipy.special.erf, ()),
  "relu": (jax.nn.relu, (0.0,)),
  "leaky_relu": (None, (0.0,)),
  "softplus": (jax.nn.softplus, ()),
  "selu": (jax.nn.selu, (0.0,)),
  "elu": (jax.nn.elu, (0.0,)),
  "swish": (jax.nn.silu, ()),
  "silu": (jax.nn.silu, ()),
  "gelu": (functools.partial(jax.nn.gelu, approximate=True), ()),
  "gelu_exact": (functools.partial(jax.nn.gelu, approximate=False), ()),
  "bentid": (lambda x: (jnp.sqrt(x * x + 1) - 1) / 2 + x, ()),
  "atan": (jnp.arctan, ()),
  "asinh": (jnp.arcsinh, ()),
  "square": (jnp.square, ()),
  "softsign": (jax.nn.soft_sign, (0.0,)),
  "sin": (jnp.sin, ()),
  "cos": (jnp.cos, ()),
  "mish": (jax.nn.mish, ()),
  "hard_tanh": (jax.nn.hard_tanh, (-1.0, 1.0)),
  "relu6": (jax.nn.relu6, (0.0, 6.0)),
}
SLOPE_JUMPS = {"relu", "leaky_relu", "selu", "hard_tanh", "relu6"}
CLIPS = {"hard_tanh", "relu6"}
UNREACHABLE = {"DKS": CLIPS | {"square"}, "TAT": SLOPE_JUMPS - {"leaky_relu"} | {"square"}}

NETWORKS = {
  "chain 10": tatnet.chain(10),
  "chain 49": tatnet.chain(49),
  "chain 151": tatnet.chain(151),
  **{f"resnet {w}": resnet(50, 2, w) for w in (0.0, 0.5, 0.8)},
}


def network_slope(network, psi):
  """The largest C_f'(1), from the formulas of the papers."""
  kind, value = network.split()
  if kind == "chain":
    return psi ** int(value)
  w2, slope = float(value) ** 2, 1.0
  for blocks in (3, 4, 6, 3):
    for block in range(blocks):
      shortcut = psi * slope if block == 0 else slope
      slope = w2 * shortcut + (1 - w2) * psi**3 * slope
  return psi * slope


def network_curvature(network, kappa):
  """The largest C_f''(1) where every C'(1) = 1."""
  kind, value = network.split()
  w2 = float(value) ** 2
  return kappa * (int(value) if kind == "chain" else (1 - w2) * 3 * 16 + w2 * 4 + 1)


@functools.cache
def derivatives(name, slope=None):
  function = functools.partial(jax.nn.leaky_relu, negative_slope=slope) if slope else BASES[name][0]
  return derivatives_of(function, 2)


def conditions(act):
  """Q(1), Q'(1), C(0), C'(1), C''(1) of a record, from its numbers alone."""
  alpha, gain = (1.0 if s is None else s for s in (act.input_scale, act.output_scale))
  beta, delta = act.input_shift or 0.0, act.output_shift or 0.0
  phi = derivatives(act.name, act.negative_slope)

  def integrands(z):
    f, f1, f2 = gain * phi(alpha * z + beta)
    f, f1, f2 = f + gain * delta, alpha * f1, alpha**2 * f2
    return np.array([f, f * f, f * f1 * z, f1 * f1, f2 * f2])

  kinks = [(k - beta) / alpha for k in BASES[act.name][1]]
  mean, q, q_slope, slope, curvature = expectation(integrands, kinks)
  return q, q_slope, mean / math.sqrt(q), slope / q, curvature / q


def close(value, target):
  return abs(value - target) < 1e-10


def test_every_name_is_covered():
  assert set(BASES) == set(tatnet.activation_names())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", sorted(set(BASES) - UNREACHABLE["DKS"]))
def test_dks(name, network):
  act = tatnet.transform_activation(name, NETWORKS[network], tatnet.DKS(1.5))
  q, q_slope, root_c0, c_slope, _ = conditions(act)
  assert close(q, 1)
  assert close(root_c0, 0)
  assert close(c_slope, brentq(lambda psi: network_slope(network, psi) - 1.5, 1, 2, xtol=1e-14))
  # A ReLU has one parameter less: its Q'(1) comes as it comes.
  assert close(q_slope, 1) or name == "relu"
  assert network_slope(network, c_slope) == pytest.approx(1.5, abs=1e-8)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", sorted(set(BASES) - UNREACHABLE["TAT"] - {"leaky_relu"}))
def test_tat_of_smooth_activations(name, network):
  act = tatnet.transform_activation(name, NETWORKS[network], tatnet.TAT(tau=0.3))
  q, q_slope, _, c_slope, c_curvature = conditions(act)
  assert close(q, 1)
  assert close(q_slope, 1)
  assert close(c_slope, 1)
  assert close(network_curvature(network, c_curvature), 0.3)
  # The rule of the authors' code against solutions with unstable Q maps.
  assert act.input_scale * act.output_scale < 2


@pytest.mark.parametrize("network", NETWORKS)
def test_tat_of_leaky_relu(network):
  if network == "chain 10":
    with pytest.raises(ValueError, match=r"eta=0\.9 is out of reach.* they reach 0\.8715"):
      tatnet.transform_activation("leaky_relu", NETWORKS[network], tatnet.TAT(0.9))
    return
  act = tatnet.transform_activation("leaky_relu", NETWORKS[network], tatnet.TAT(0.9))
  q, q_slope, _, c_slope, _ = conditions(act)
  assert all(close(value, 1) for value in (q, q_slope, c_slope))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", sorted(UNREACHABLE["TAT"] - {"relu", "square"}))
def test_tat_needs_a_continuous_slope(name, network):
  (kink, *_) = BASES[name][1]
  left, right = derivatives(name)(kink - 1e-9)[1], derivatives(name)(kink + 1e-9)[1]
  assert abs(right - left) > 0.1
  with pytest.raises(ValueError, match=rf"TAT cannot transform {name}, whose slope jumps"):
    tatnet.transform_activation(name, NETWORKS[network], tatnet.TAT())


@pytest.mark.parametrize("method", [tatnet.DKS(), tatnet.TAT()], ids=["DKS", "TAT"])
def test_square_has_no_solution(method):
  # With f = (alpha x + beta)^2 + const, V = Var f and m = E f:
  #   Q'(1) = (4 alpha^4 + 4 alpha^2 beta^2 + 2 alpha^2 m) / (V + m^2), V = 2 alpha^4 + 4 alpha^2 beta^2.
  # DKS has m = 0 and Q'(1) > 1; TAT's C'(1) = 1 makes m^2 = 2 alpha^4 and Q'(1) != 1.
  given = "C(0) = 0 and Q'(1) = 1" if isinstance(method, tatnet.DKS) else "Q'(1) = C'(1) = 1"
  with pytest.raises(ValueError, match="square cannot be transformed") as error:
    tatnet.transform_activation("square", tatnet.chain(49), method)
  assert given in str(error.value)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", sorted(CLIPS))
def test_the_range_stated_for_a_clip_is_right(name, network):
  """Two kinks far apart are one kink: the least C'(1) is that of a centred ReLU, pi / (pi - 1)."""
  with pytest.raises(ValueError, match=r"zeta=1\.5 is out of reach") as error:
    tatnet.transform_activation(name, NETWORKS[network], tatnet.DKS(1.5))
  stated = re.search(
    r"reaches at least about ([\d.]+)\. Choose zeta at least (\S+),", str(error.value)
  )
  psi, zeta = float(stated[1]), float(stated[2])
  least = min(slopes_of_clips())
  assert least == pytest.approx(math.pi / (math.pi - 1), abs=1e-8)
  assert least * 0.999 < psi < 1.02 * least
  assert zeta == pytest.approx(network_slope(network, psi), rel=0.2)
  reached = brentq(lambda p: network_slope(network, p) - zeta, 1, 3)
  act = tatnet.transform_activation(name, NETWORKS[network], tatnet.DKS(1.001 * zeta))
  assert conditions(act)[3] == pytest.approx(reached, rel=1e-3)
  with pytest.raises(ValueError, match="out of reach"):
    tatnet.transform_activation(
      name, NETWORKS[network], tatnet.DKS(network_slope(network, 0.98 * psi))
    )


@functools.cache
def slopes_of_clips():
  """C'(1) of clip(alpha x + beta, -1, 1) wherever C(0) = 0 and Q'(1) = 1.

  Every clip is an affine image of this one, which is odd, so beta >= 0 is enough.
  """
  found = []
  for alpha in np.geomspace(0.3, 3, 20):

    def values(beta, alpha=alpha):
      def integrands(z):
        f = min(max(alpha * z + beta, -1.0), 1.0)
        f1 = alpha * (abs(alpha * z + beta) < 1)
        return np.array([f, f * f, f * f1 * z, f1 * z, f1 * f1])

      kinks = [(1 - beta) / alpha, (-1 - beta) / alpha]
      mean, square, mixed, cross, slope = expectation(integrands, kinks)
      variance = square - mean**2
      return (mixed - mean * cross) / variance - 1, slope / variance

    grid = np.linspace(0, 1 + 3 * alpha, 25)
    excess = np.array([values(beta)[0] for beta in grid])
    # Where no kink is near the map is straight, and Q'(1) = 1 up to rounding.
    for i in np.flatnonzero((excess[1:] * excess[:-1] < 0) & (np.abs(excess[1:]) > 1e-9)):
      beta = brentq(lambda b: values(b)[0], grid[i], grid[i + 1], xtol=1e-14)
      found.append(values(beta)[1])
  return found
