"""What makes no schedule is refused: messages name what was given and what to do."""

import json
import math

import pytest

import tatnet
from tatnet.attention import (
  AttentionSchedule,
  ExponentialLayer,
  UniformLayer,
  cut_skip_weights,
  exponential_schedule,
  mimetic_weights,
  uniform_schedule,
)

TOPOLOGY = tatnet.sequence(*[tatnet.mixing(0.1), tatnet.chain(1)] * 3)
ACT = tatnet.transform_activation("tanh", TOPOLOGY, tatnet.DKS())
SCHEDULE = tatnet.attention_schedule(TOPOLOGY, ACT)


def by_hand(x, r):
  return r(r(x))


@pytest.mark.parametrize(
  ("arguments", "options", "error", "part"),
  [
    ((TOPOLOGY, ACT), {"step": 1.0}, ValueError, r"step=1.0; expected a number in \[0, 1\)"),
    ((TOPOLOGY, ACT), {"step": -0.1}, ValueError, "step=-0.1"),
    ((TOPOLOGY, ACT), {"step": math.nan}, ValueError, "step=nan"),
    ((TOPOLOGY, ACT), {"step": "0.1"}, TypeError, "step='0.1'"),
    ((TOPOLOGY, ACT), {"step": True}, TypeError, "step=True"),
    ((TOPOLOGY, ACT), {"step": 0.2}, ValueError, "3 attention layers of step 0.1; expected the same"),
    ((TOPOLOGY, ACT), {"step": (0.1, 0.1)}, ValueError, "3 attention layers"),
    ((TOPOLOGY, ACT), {"input_cosine": 1.0}, ValueError, "input_cosine=1.0"),
    ((TOPOLOGY, ACT), {"input_cosine": -0.2}, ValueError, "input_cosine=-0.2"),
    ((TOPOLOGY, ACT), {"causal": 1}, TypeError, "causal=1; expected True or False"),
    ((tatnet.chain(3), ACT), {}, ValueError, r"tatnet.mixing\(step\) in front of"),
    ((tatnet.chain(3), ACT), {"step": 0.1}, ValueError, "without attention layers and step=0.1"),
    ((by_hand, ACT), {}, ValueError, "does not say where attention stands"),
    ((3, ACT), {}, TypeError, "expected a tatnet.Topology"),
    ((TOPOLOGY, "tanh"), {}, ValueError, "maps q = 1 to 0.39.* keeps q = 1"),
    ((TOPOLOGY, "relu"), {}, ValueError, "maps q = 1 to 0.5"),
    ((TOPOLOGY, "tahn"), {}, ValueError, "Did you mean 'tanh'"),
  ],
)  # fmt: skip
def test_schedules_that_cannot_be_planned(arguments, options, error, part):
  with pytest.raises(error, match=part):
    tatnet.attention_schedule(*arguments, **options)


@pytest.mark.parametrize(
  ("call", "error", "part"),
  [
    (lambda: SCHEDULE.row_scale(3, 4), ValueError, "no layer 3; expected 0 to 2"),
    (lambda: SCHEDULE.kernel(-4), ValueError, "at least -3"),
    (lambda: SCHEDULE.kernel(0.5), TypeError, "layer=0.5"),
    (lambda: SCHEDULE.as_matrix(0, 0), ValueError, "tokens=0"),
    (lambda: SCHEDULE.as_matrix(0, 2.5), TypeError, "tokens=2.5"),
    (lambda: SCHEDULE.log_attention(0, True), TypeError, "tokens=True"),
    (
      lambda: exponential_schedule(2, causal=False, tokens=9).as_matrix(0, 10),
      ValueError,
      "tokens=10; expected 9, the one length",
    ),
    (lambda: exponential_schedule(2, causal=False), ValueError, "no closed form"),
    (lambda: exponential_schedule(0), ValueError, "depth=0"),
    (lambda: exponential_schedule(2, 0.0), ValueError, "decay above 0"),
    (lambda: exponential_schedule(2, math.inf), ValueError, "finite decay"),
    (lambda: uniform_schedule(2, 1.0), ValueError, "final_cosine=1.0"),
    (lambda: uniform_schedule(2.5), TypeError, "depth=2.5"),
    (lambda: UniformLayer(0.4, 0.2), ValueError, "does not fall"),
    (lambda: UniformLayer(-0.1, 0.2), ValueError, "before=-0.1"),
    (lambda: UniformLayer(0.1, "0.2"), TypeError, "after='0.2'"),
    (lambda: ExponentialLayer(0.1, 0.2), ValueError, "does not grow"),
    (lambda: ExponentialLayer(0.1, 0.0), ValueError, "above 0"),
    (lambda: AttentionSchedule(UniformLayer(0, 0.1)), TypeError, "a tuple of UniformLayer"),
    (lambda: AttentionSchedule((UniformLayer(0, 0.1),), causal=False), ValueError, "agree"),
    (lambda: cut_skip_weights(None, 16, 3), ValueError, "heads=3; expected heads that divide"),
    (lambda: mimetic_weights(None, 16, 2, query_key=(0.7,)), TypeError, "a pair of numbers"),
    (lambda: cut_skip_weights(None, 16, 2, identity=math.inf), ValueError, "identity=inf"),
  ],
)
def test_what_does_not_exist(call, error, part):
  with pytest.raises(error, match=part):
    call()


@pytest.mark.parametrize(
  ("change", "error", "part"),
  [
    (lambda d: [d], TypeError, "expected the dictionary"),
    (lambda d: d | {"colour": 1}, ValueError, "'colour'"),
    (lambda d: d | {"layers": 3}, TypeError, "layers=3"),
    (lambda d: d | {"layers": [3]}, ValueError, "the layer 3"),
    (lambda d: d | {"layers": [d["layers"][0] | {"family": "linear"}]}, ValueError, "'linear'"),
    (lambda d: d | {"layers": [d["layers"][0] | {"after": 2.0}]}, ValueError, "after=2.0"),
    (lambda d: d | {"causal": "yes"}, TypeError, "causal='yes'"),
    (lambda d: d | {"tokens": -1}, ValueError, "tokens=-1"),
  ],
)
def test_dictionaries_that_hold_no_schedule(change, error, part):
  data = json.loads(json.dumps(SCHEDULE.to_dict()))
  with pytest.raises(error, match=part):
    AttentionSchedule.from_dict(change(data))
