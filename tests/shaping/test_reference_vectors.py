"""Parameters and values that the papers' authors' package and independent code arrived at."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import local_conditions
from topologies import resnet

import tatnet

FIELDS = ("input_scale", "input_shift", "output_shift", "output_scale")


def bottleneck_101(x, r):
  """The authors' test network: v2, shortcut weight 0.6, maximum over subnetworks included."""
  y = x
  for blocks in (3, 4, 23, 3):
    for block in range(blocks):
      shortcut = r(y) if block == 0 else y
      y = 0.36 * shortcut + 0.64 * r(r(r(y)))
  return max(r(y), r(r(r(x))))


FIRST_METHODS = {"DKS": tatnet.DKS(zeta=1.2), "TAT": tatnet.TAT(eta=0.75, tau=0.2)}
FIRST = {
  ("softplus", "DKS"): (
    0.18761008168267976, 0.40688063442262007, -0.9213466151411376, 8.878672543665223),
  ("tanh", "DKS"): (
    0.07461073057540868, 0.5566915199964182, -0.5034378768692127, 18.002635964442558),
  ("softplus", "TAT"): (
    0.15011489794748328, 0.5374599901127068, -0.996481014465811, 10.54880187880574),
  ("tanh", "TAT"): (
    0.0580205218578313, 0.5218639804099805, -0.4796430704354356, 22.36066261763117),
  ("gelu", "DKS"): (
    0.07036271496383567, 0.2586837248593587, -0.15758328114374964, 20.249573305194307),
  ("gelu_exact", "DKS"): (
    0.07043253126531114, 0.259489297927707, -0.15815378961903598, 20.21158902315857),
}  # fmt: skip

SECOND_METHODS = {"DKS": tatnet.DKS(zeta=12, q_slope=0.97), "TAT": tatnet.TAT(eta=0.95, tau=4.5)}
# Values at x = 0.6 and x = -0.6.
SECOND = {
  ("softplus", "DKS"): (0.5205088334781294, -0.6970897398761904),
  ("tanh", "DKS"): (0.6910746968773931, -0.5122335409369118),
  ("softplus", "TAT"): (0.6923574763139374, -0.4935166367766701),
  ("tanh", "TAT"): (0.6860178437500071, -0.49030275427738146),
  ("leaky_relu", "TAT"): (0.7954047194402861, -0.2955187511683813),
  ("gelu", "TAT"): (0.6922557817568101, -0.491992384704867),
  ("gelu_exact", "TAT"): (0.6922429517529013, -0.49198103131465193),
}
# The reference's quadrature crosses the kink here, and misses its own conditions.
SECOND_ACROSS_KINKS = {
  "relu": (0.6053339463256114, -0.6486764456443863),
  "leaky_relu": (0.5628988987673328, -0.6649764416535503),
}


def solved(name, method, topology=bottleneck_101):
  return tatnet.transform_activation(name, topology, method)


def at(act, x):
  with jax.enable_x64(True):
    return float(act(jnp.asarray(x, jnp.float64)))


def kink_of(act):
  return [-(act.input_shift or 0.0) / (act.input_scale or 1.0)]


def slope_with(zeta):
  """The local slope psi with M(1, psi y) = zeta, by bisection."""
  low, high = 1.0, 2.0
  for _ in range(60):
    psi = (low + high) / 2
    low, high = (psi, high) if bottleneck_101(1.0, lambda y, p=psi: p * y) < zeta else (low, psi)
  return low


@pytest.mark.parametrize("case", FIRST, ids="-".join)
def test_first_set(case):
  act = solved(case[0], FIRST_METHODS[case[1]])
  assert [getattr(act, field) for field in FIELDS] == pytest.approx(FIRST[case], abs=1e-6)


def test_first_set_of_rectifiers():
  act = solved("leaky_relu", FIRST_METHODS["TAT"])
  assert act.negative_slope == pytest.approx(0.6291800290346146, abs=1e-8)
  assert act.output_scale == pytest.approx(1.196996549778802, abs=1e-8)
  act = solved("leaky_relu", FIRST_METHODS["DKS"])
  expected = (0.8761257073473065, 0, -0.049418692997275034, 1.0651832705682147)
  found = (act.negative_slope, act.input_shift, act.output_shift, act.output_scale)
  assert found == pytest.approx(expected, abs=1e-6)


def test_first_set_local_targets():
  assert slope_with(1.2) == pytest.approx(1.002770965849537, abs=1e-12)
  conditions = local_conditions(solved("tanh", FIRST_METHODS["TAT"]))
  assert conditions["c_curvature"] == pytest.approx(0.0030395136778, abs=1e-11)


@pytest.mark.parametrize("case", SECOND, ids="-".join)
def test_second_set(case):
  act = solved(case[0], SECOND_METHODS[case[1]])
  mirrored = case == ("tanh", "TAT")  # f(x) and -f(-x) have the same maps
  values = (-at(act, -0.6), -at(act, 0.6)) if mirrored else (at(act, 0.6), at(act, -0.6))
  assert values == pytest.approx(SECOND[case], abs=1e-6)


@pytest.mark.parametrize("zeta", [1.2, 12.0])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "softplus", "tanh", "gelu", "gelu_exact"])
def test_conditions_of_dks(name, zeta):
  q_slope = 1.0 if zeta < 2 else 0.97
  act = solved(name, tatnet.DKS(zeta, q_slope))
  found = local_conditions(act, kink_of(act) if "relu" in name else ())
  assert found["q"] == pytest.approx(1, abs=1e-10)
  assert found["c0"] == pytest.approx(0, abs=1e-10)
  assert found["c_slope"] == pytest.approx(slope_with(zeta), abs=1e-10)
  if name != "relu":  # it has a parameter too few
    assert found["q_slope"] == pytest.approx(q_slope, abs=1e-10)


@pytest.mark.parametrize("name", SECOND_ACROSS_KINKS)
def test_the_reference_is_near_where_it_crosses_a_kink(name):
  act = solved(name, SECOND_METHODS["DKS"])
  assert (at(act, 0.6), at(act, -0.6)) == pytest.approx(SECOND_ACROSS_KINKS[name], abs=3e-5)


@pytest.mark.parametrize("methods", [FIRST_METHODS, SECOND_METHODS], ids=["first", "second"])
@pytest.mark.parametrize("name", ["softplus", "tanh", "gelu", "gelu_exact"])
def test_conditions_of_tat(name, methods):
  found = local_conditions(solved(name, methods["TAT"]))
  for quantity in ("q", "q_slope", "c_slope"):
    assert found[quantity] == pytest.approx(1, abs=1e-10)
  kappa = methods["TAT"].tau / bottleneck_101(0.0, lambda y: y + 1.0)
  assert found["c_curvature"] == pytest.approx(kappa, abs=1e-10)


# (depth, shortcut weight) -> psi for zeta = 1.5 and kappa for tau = 0.3.
LOCAL_TARGETS = {
  (50, 0.0): (1.0083091289, 0.0061224490),
  (50, 0.5): (1.0106924658, 0.0078947368),
  (50, 0.8): (1.0193876302, 0.0143953935),
  (101, 0.0): (1.0040628823, 0.0030000000),
  (101, 0.5): (1.0053221170, 0.0039344262),
  (101, 0.8): (1.0103103964, 0.0076530612),
  (152, 0.0): (1.0026888078, 0.0019867550),
  (152, 0.5): (1.0035430454, 0.0026200873),
  (152, 0.8): (1.0070265137, 0.0052119527),
  (34, 0.0): (1.0123626145, 0.0090909091),
  (18, 0.0): (1.0241375960, 0.0176470588),
}


@pytest.mark.parametrize("network", LOCAL_TARGETS, ids=str)
def test_local_targets_of_the_residual_networks(network):
  psi, kappa = LOCAL_TARGETS[network]
  topology = resnet(network[0], 2, network[1])
  assert solved("tanh", tatnet.DKS(1.5), topology).local.c_slope == pytest.approx(psi, abs=2e-10)
  found = solved("tanh", tatnet.TAT(tau=0.3), topology).local.c_curvature
  assert found == pytest.approx(kappa, abs=2e-10)


# (length of the chain, name, method) -> FIELDS.
PARAMETERS = {
  (49, "tanh", "DKS"): (0.129767, 0.571213, -0.509999, 10.50054),
  (49, "tanh", "TAT"): (0.082490, 0.526013, -0.483335, 15.782511),
  (49, "softplus", "DKS"): (0.330114, 0.409446, -0.931596, 5.040861),
  (49, "softplus", "TAT"): (0.214304, 0.540131, -0.997069, 7.378671),
  (49, "gelu_exact", "DKS"): (0.122618, 0.257688, -0.160616, 11.631626),
  (49, "gelu_exact", "TAT"): (0.082577, 0.326824, -0.204276, 16.095449),
  (49, "swish", "DKS"): (0.186355, 0.348790, -0.212612, 7.998019),
  (49, "swish", "TAT"): (0.124628, 0.447503, -0.271557, 11.188748),
  (49, "erf", "DKS"): (0.112304, 0.589897, -0.590011, 11.172633),
  (49, "erf", "TAT"): (0.072521, 0.545923, -0.560888, 16.447774),
  (49, "sigmoid", "DKS"): (0.259533, 1.142425, -0.755000, 21.001080),
  (49, "sigmoid", "TAT"): (-0.164980, -1.052027, -0.258333, 31.565022),
  (100, "tanh", "DKS"): (0.090438, 0.560107, -0.505004, 14.902526),
  (100, "tanh", "TAT"): (0.057641, 0.521811, -0.479595, 22.506946),
  (100, "softplus", "DKS"): (0.228024, 0.407510, -0.923720, 7.303253),
  (100, "softplus", "TAT"): (0.149125, 0.537426, -0.996473, 10.619039),
  (100, "gelu_exact", "DKS"): (0.085391, 0.259073, -0.158726, 16.678238),
  (100, "gelu_exact", "TAT"): (0.057672, 0.327049, -0.204956, 23.051946),
}
DEFAULTS = {"DKS": tatnet.DKS(1.5), "TAT": tatnet.TAT(tau=0.3)}


def mirror_images(name, parameters):
  """Parameters of f(x), f(-x), and for odd phi (sigmoid up to a constant) of -f(-x), -f(x)."""
  alpha, beta, delta, gamma = parameters
  images = [(alpha, beta, delta, gamma), (-alpha, beta, delta, gamma)]
  if name in ("tanh", "erf", "sigmoid"):
    reflected = -delta - (1 if name == "sigmoid" else 0)
    images += [(alpha, -beta, reflected, gamma), (-alpha, -beta, reflected, gamma)]
  return images


@pytest.mark.parametrize("case", PARAMETERS, ids=str)
def test_solved_parameters(case):
  length, name, method = case
  act = solved(name, DEFAULTS[method], tatnet.chain(length))
  found = np.array([getattr(act, field) for field in FIELDS])
  images = np.array(mirror_images(name, PARAMETERS[case]))
  # The last printed digit may be a unit off.
  assert np.min(np.max(np.abs(images - found), axis=1)) < 1.1e-6
  conditions = local_conditions(act)
  assert conditions["q_slope"] == pytest.approx(1, abs=1e-10)
  psi = 1.5 ** (1 / length) if method == "DKS" else 1.0
  assert conditions["c_slope"] == pytest.approx(psi, abs=1e-10)


COSINES = np.array([-1, -0.5, 0, 0.5, 0.9])


@pytest.mark.parametrize("name", ["tanh", "softplus", "gelu_exact", "swish", "erf", "sigmoid"])
def test_global_c_maps(name):
  chain, longer = tatnet.chain(49), tatnet.chain(100)
  curve = tatnet.cmap(chain, solved(name, DEFAULTS["DKS"], chain), COSINES)
  np.testing.assert_allclose(curve, [-0.4966, -0.2844, 0, 0.3997, 0.8571], atol=5e-4)
  curve = tatnet.cmap(chain, solved(name, DEFAULTS["TAT"], chain), COSINES)
  np.testing.assert_allclose(curve, [-0.537, -0.2239, 0.1306, 0.5349, 0.9015], atol=5e-4)
  curve = tatnet.cmap(longer, solved(name, DEFAULTS["DKS"], longer), COSINES)
  np.testing.assert_allclose(curve, [-0.4983, -0.2850, 0, 0.3998, 0.8571], atol=5e-4)


# (name, method) -> {q at the input: q after 49 layers}.
ROBUSTNESS = {
  ("tanh", "DKS"): {0.5: 0.541, 2: 2.113, 4: 4.180},
  ("softplus", "DKS"): {0.5: 0.547, 2: 2.251, 4: 7.88},
  ("tanh", "TAT"): {0.5: 0.502, 2: 1.996, 4: 3.84},
  ("softplus", "TAT"): {2: 2.015, 4: 4.16},
}


@pytest.mark.parametrize("case", ROBUSTNESS, ids="-".join)
def test_q_maps_off_the_operating_point(case):
  maps = tatnet.local_maps(solved(case[0], DEFAULTS[case[1]], tatnet.chain(49)))
  for q, expected in ROBUSTNESS[case].items():
    for _ in range(49):
      q = maps.Q(q)
    digits = 2 if expected in (7.88, 3.84, 4.16) else 3
    assert math.isclose(q, expected, abs_tol=0.51 * 10**-digits)
