"""Attention and nonlinear layers planned together: q = 1, the published numbers, and sums."""

import json
import math

import numpy as np
import pytest

import tatnet
from tatnet.attention import exponential_schedule, token_kernels, uniform_schedule


def blocks(depth, step, nonlinear=2):
  return tatnet.sequence(*[tatnet.mixing(step), tatnet.chain(nonlinear)] * depth)


def tailored(slope):
  return tatnet.TransformedActivation(
    "leaky_relu", negative_slope=slope, output_scale=math.sqrt(2 / (1 + slope**2))
  )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 5, 33])
@pytest.mark.parametrize(
  ("name", "method"),
  [("leaky_relu", tatnet.TAT(0.7)), ("tanh", tatnet.DKS(1.5)), ("softplus", tatnet.TAT(tau=0.3))],
)
def test_q_is_1_everywhere_and_cosines_are_those_of_the_plan(name, method, tokens, causal):
  topology = blocks(6, 0.05, nonlinear=1)
  act = tatnet.transform_activation(name, topology, method)
  schedule = tatnet.attention_schedule(topology, act, causal=causal, input_cosine=0.1)
  layers = [x for n in range(6) for x in (schedule.as_matrix(n, tokens), act)]
  kernel = 0.9 * np.eye(tokens) + 0.1
  for place, kernel in enumerate(token_kernels(kernel, layers)):  # noqa: B020
    np.testing.assert_allclose(np.diag(kernel), 1, atol=1e-10)
    if place % 2 == 0 and tokens > 1:
      others = kernel[~np.eye(tokens, dtype=bool)]
      np.testing.assert_allclose(others, schedule.kernel(place // 2), atol=1e-9)
  if tokens > 1:
    assert kernel[1, 0] == pytest.approx(tatnet.cmap(topology, act, 0.1), abs=1e-9)


def test_the_published_check_of_joint_planning():
  topology, act = blocks(12, 0.05), tailored(0.238502602)
  schedule = tatnet.attention_schedule(topology, act)
  found = [schedule.kernel(n) for n in (0, 1, 2, 11)]
  np.testing.assert_allclose(found, [0.05, 0.365188476, 0.544335839, 0.925914168], atol=5e-9)
  assert tatnet.cmap(topology, act, 0.0) == pytest.approx(0.932356928, abs=5e-9)
  row = [0.03065881, 0.01702945, 0.01188224, 0.97938401]
  np.testing.assert_allclose(schedule.as_matrix(1, 4)[3], row, atol=5e-9)
  both = tatnet.attention_schedule(topology, act, causal=False)
  np.testing.assert_allclose(
    both.as_matrix(1, 4)[2], [0.01253245] * 2 + [0.98721188, 0.01253245], atol=5e-9
  )
  np.testing.assert_allclose(both.row_scale(1, 4), 1.02480922, atol=5e-9)


@pytest.mark.parametrize(
  ("nonlinear", "step", "slopes"),
  [
    (2, 0.0, (0.614139, 0.393705, 0.238503)),
    (2, 0.01, (0.643790, 0.412511, 0.255761)),
    (2, 0.02, (0.678177, 0.432483, 0.273650)),
    (2, 0.05, (0.853632, 0.501613, 0.331975)),
    (1, 0.01, (0.525835, 0.230394, 0.015487)),
    (1, 0.05, (0.798761, 0.344412, 0.121679)),
  ],
)
def test_slopes_with_which_attention_and_layers_reach_a_target_together(nonlinear, step, slopes):
  for eta, slope in zip((0.5, 0.8, 0.9), slopes, strict=True):
    act = tatnet.transform_activation("leaky_relu", blocks(12, step, nonlinear), tatnet.TAT(eta))
    assert act.negative_slope == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
  ("depth", "eta", "causal", "lowest", "highest", "cosine"),
  [(12, 0.9, True, 1.00, 6.59, 0.9890), (12, 0.5, True, 1.00, 2.79, 0.9496), (36, 0.9, True, 1.00, 7.96, 0.9892),
   (12, 0.9, False, 7.30, 7.90, 0.9974), (36, 0.9, False, 9.2, 10.0, 0.9978)],
)  # fmt: skip
def test_attention_planned_alone_misses_its_target(depth, eta, causal, lowest, highest, cosine):
  act = tatnet.transform_activation("leaky_relu", tatnet.chain(2 * depth), tatnet.TAT(eta))
  schedule = exponential_schedule(depth, causal=causal, tokens=None if causal else 64)
  layers = [x for n in range(depth) for x in (schedule.as_matrix(n, 64), act, act)]
  kernel = token_kernels(np.eye(64), layers)[-1]
  q = np.diag(kernel)
  assert (q.min(), q.max()) == pytest.approx((lowest, highest), abs=0.06)
  cosines = kernel / np.sqrt(np.outer(q, q))
  assert cosines[~np.eye(64, dtype=bool)].mean() == pytest.approx(cosine, abs=1e-4)


def test_uniform_attention_planned_alone():
  act = tatnet.transform_activation("leaky_relu", tatnet.chain(24), tatnet.TAT(0.9))
  schedule = uniform_schedule(12, 0.8, causal=False)
  layers = [x for n in range(12) for x in (schedule.as_matrix(n, 64), act, act)]
  kernel = token_kernels(np.eye(64), layers)[-1]
  # The schedule of cosines is another than that behind the published 4.80 and .9903.
  assert kernel[0, 0] > 2
  assert kernel[1, 0] / kernel[0, 0] > 0.98


def test_normalised_shortcuts_around_attention_and_layers():
  """Sums of uniform kernels are uniform: the plan holds with them too."""
  attend = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.mixing(0.1)))
  dense = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.chain(1)))
  topology = tatnet.sequence(*[attend, dense] * 3)
  act = tatnet.transform_activation("tanh", topology, tatnet.DKS(1.5))
  schedule = tatnet.attention_schedule(topology, act)
  kernel, tokens = np.eye(7), 7
  for n in range(3):
    np.testing.assert_allclose(kernel[1:, 0], kernel[1, 0], atol=1e-9)
    mixed = token_kernels(kernel, [schedule.as_matrix(n, tokens)])[0]
    assert mixed[1, 0] == pytest.approx(schedule.kernel(n), abs=1e-9)
    kernel = 0.36 * kernel + 0.64 * mixed
    kernel = 0.36 * kernel + 0.64 * token_kernels(kernel, [act])[0]
  np.testing.assert_allclose(np.diag(kernel), 1, atol=1e-9)


def test_layers_that_keep_their_own_activation():
  own = tatnet.transform_activation("tanh", tatnet.chain(4), tatnet.DKS())
  topology = tatnet.sequence(
    tatnet.mixing(0.1), tatnet.nonlinear(own), tatnet.mixing(0.2), tatnet.chain(1)
  )
  act = tatnet.transform_activation("gelu", topology, tatnet.DKS())
  schedule = tatnet.attention_schedule(topology, act, step=(0.1, 0.2))
  assert schedule.kernel(1) == pytest.approx(0.2 + 0.8 * own.maps.C(0.1))


@pytest.mark.parametrize("causal", [True, False])
def test_a_step_of_0_is_the_identity(causal):
  topology = blocks(3, 0.0)
  act = tatnet.transform_activation("tanh", topology, tatnet.DKS())
  schedule = tatnet.attention_schedule(topology, act, step=0.0, causal=causal)
  assert len(schedule) == 6
  for n in range(6):
    np.testing.assert_array_equal(schedule.as_matrix(n, 9), np.eye(9))
    np.testing.assert_array_equal(schedule.row_scale(n, 9).round(12), 1)


@pytest.mark.parametrize(
  "schedule",
  [
    exponential_schedule(3),
    exponential_schedule(3, causal=False, tokens=9),
    uniform_schedule(3),
    tatnet.attention_schedule(blocks(3, 0.1), tailored(0.3), input_cosine=0.2, causal=False),
  ],
  ids=["exponential", "symmetric", "uniform", "joint"],
)
def test_a_schedule_goes_through_json(schedule):
  again = tatnet.AttentionSchedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
  assert again == schedule
  assert hash(again) == hash(schedule)
  np.testing.assert_array_equal(again.as_matrix(1, 9), schedule.as_matrix(1, 9))
