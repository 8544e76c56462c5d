"""A topology's repr is short, and says all there is to rebuild it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tatnet

BLOCK = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.chain(2)))
LAYER = tatnet.nonlinear()


def read(lines):
  """The topology that some lines describe."""
  parts, rest = [], list(lines)
  while rest:
    head, rest = rest[0], rest[1:]
    inner = []
    while rest and rest[0].startswith(" "):
      inner.append(rest.pop(0))
    times = re.fullmatch(r"(\d+) x (.*)", head)
    count, head = (int(times[1]), times[2]) if times else (1, head)
    if head == "(":
      assert rest.pop(0) == ")"
      parts += count * [read([line.removeprefix("  ") for line in inner])]
    elif head == "sum":
      terms = read_terms([line.removeprefix("  ") for line in inner])
      parts += count * [tatnet.weighted_sum(*terms)]
    else:
      assert head in ("nonlinear", "identity")
      parts += count * [tatnet.nonlinear() if head == "nonlinear" else tatnet.identity()]
      assert not inner
  return tatnet.sequence(*parts)


def read_terms(lines):
  starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
  for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
    weight, first = re.fullmatch(r"([\d.]+) \* (.*)", lines[start]).groups()
    indent = len(weight) + 3
    yield float(weight), read([first, *(line[indent:] for line in lines[start + 1 : end])])


def larger(topologies):
  pair = st.tuples(topologies, topologies)
  return (
    st.lists(topologies, max_size=5).map(lambda parts: tatnet.sequence(*parts))
    | pair.map(lambda ab: tatnet.weighted_sum((0.6, ab[0]), (0.8, ab[1])))
    | st.tuples(topologies, st.integers(2, 4)).map(lambda at: tatnet.sequence(*[at[0]] * at[1]))
  )


TOPOLOGIES = st.recursive(st.just(tatnet.identity()) | st.just(LAYER), larger, max_leaves=10)


@settings(deadline=None, max_examples=150)
@given(TOPOLOGIES)
def test_repr_says_the_whole_structure(topology):
  assert read(repr(topology).splitlines()) == topology


@pytest.mark.parametrize(
  ("topology", "text"),
  [
    (tatnet.identity(), "identity"),
    (LAYER, "nonlinear"),
    (tatnet.chain(100_000), "100000 x nonlinear"),
    (BLOCK, "sum\n  0.6 * identity\n  0.8 * 2 x nonlinear"),
    (BLOCK >> BLOCK >> LAYER, "2 x sum\n  0.6 * identity\n  0.8 * 2 x nonlinear\nnonlinear"),
    (
      tatnet.sequence(*[LAYER, BLOCK] * 3),
      "3 x (\n  nonlinear\n  sum\n    0.6 * identity\n    0.8 * 2 x nonlinear\n)",
    ),
    (
      tatnet.weighted_sum((0.8, BLOCK >> LAYER), (0.6, LAYER)),
      "sum\n"
      "  0.8 * sum\n"
      "          0.6 * identity\n"
      "          0.8 * 2 x nonlinear\n"
      "        nonlinear\n"
      "  0.6 * nonlinear",
    ),
    (tatnet.nonlinear(where="block_1/conv"), "nonlinear  [block_1/conv]"),
  ],
)
def test_what_it_looks_like(topology, text):
  assert repr(topology) == text


def test_places_and_activations_are_named():
  own = tatnet.TransformedActivation("tanh")
  kept = tatnet.nonlinear(own, where="head")
  net = tatnet.weighted_sum((0.6, LAYER), (0.8, kept >> LAYER), where="block_2")
  expected = "sum  [block_2]\n  0.6 * nonlinear\n  0.8 * nonlinear tanh  [head]\n        nonlinear"
  assert repr(net) == expected


@pytest.mark.parametrize("period", [1, 2, 3, 4])
def test_repeats_of_up_to_four_parts_are_folded(period):
  blocks = [
    tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.chain(i + 1))) for i in range(4)
  ]
  net = tatnet.sequence(LAYER, *blocks[:period] * 500, LAYER)
  assert len(repr(net).splitlines()) <= 4 * period + 4
  assert read(repr(net).splitlines()) == net
