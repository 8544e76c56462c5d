"""K-FAC's step against SGD's, and inverses one at a time against all at once."""

import jax
import jax.numpy as jnp
import optax

import tatnet
from accelerators.clock import Program, compiled, in_turn
from tatnet import training

# Layers and units of the MLP, its batch.
FULL, TOY = (50, 256, 1024), (2, 8, 4)
# Matrices to invert, and their size: those of wide MLPs, and of the convolutions of a ResNet.
STACKS = ((100, 256), (16, 576), (8, 1152), (6, 2304), (3, 4608))
TOY_STACKS = ((3, 8), (2, 16))
MANY = {"steps": 20, "repeats": 5}
FEW = {"steps": 2, "repeats": 2}


def measure(toy: bool) -> list[dict]:
  """Rows of steps, with ``"step"``, and rows of inverses, with ``"matrices"``."""
  often = FEW if toy else MANY
  return [*steps(*(TOY if toy else FULL), often), *inverses(TOY_STACKS if toy else STACKS, often)]


def steps(depth: int, width: int, batch: int, often: dict) -> list[dict]:
  """SGD, K-FAC with inverses every 10 and factors at every step or every 10, and by itself."""
  network = tatnet.nets.create("mlp", 10, width=width, depth=depth, activation="tanh")
  optimizers = {
    "sgd": (optax.sgd(1e-6, momentum=0.9), [False]),
    "kfac": (tatnet.kfac(1e-6, damping=1e-2, inverse_every=10, burn_in=0), [True]),
    "kfac, factors every 10": (
      tatnet.kfac(1e-6, damping=1e-2, inverse_every=10, factors_every=10, burn_in=0),
      [True] + 9 * [False],
    ),
    "adaptive-kfac": (tatnet.adaptive_kfac(), [True]),
  }
  key = jax.random.key(0)
  data = {
    "image": jax.random.normal(key, (batch, 64)),
    "label": jax.random.randint(key, (batch,), 0, 10),
  }
  rows, programs = [], []
  for name, (optimizer, refreshes) in optimizers.items():
    state = training.create_state(
      network, optimizer, key, jax.ShapeDtypeStruct((batch, 64), jnp.float32)
    )
    step = training.make_train_step(network, tatnet.optim.SoftmaxCrossEntropy(), optimizer)
    found = {due: compiled(step, state, data, refresh=due) for due in set(refreshes)}
    programs.append(Program(_in_cycle(found, refreshes, data), state))
    rows.append(
      {
        "step": name,
        "network": f"MLP of {depth} layers of {width}, batch {batch}",
        "compile_s": sum(seconds for _, seconds, _ in found.values()),
        "memory_gb": max(needed for *_, needed in found.values()) / 1e9,
      }
    )
  in_turn(programs, **often)
  for program, row in zip(programs, rows, strict=True):
    row |= {"step_ms": program.milliseconds, "seconds": program.seconds}
  return rows


def _in_cycle(found: dict, refreshes: list[bool], data: dict):
  """Steps with factors and without, as their intervals have it."""
  number = 0

  def step(state):
    nonlocal number
    program, _, _ = found[refreshes[number % len(refreshes)]]
    number += 1
    return program(state, data)[0]

  return step


def inverse(matrix: jax.Array) -> jax.Array:
  """Of a positive definite matrix, by its Cholesky factor."""
  factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
  return jax.scipy.linalg.cho_solve(factor, jnp.eye(len(matrix)))


def inverses(stacks, often: dict) -> list[dict]:
  """Each stack by `jax.lax.map`, as K-FAC takes it, and by `jax.vmap`."""
  rows = []
  for number, side in stacks:
    root = jax.random.normal(jax.random.key(side), (number, side, side)) / side**0.5
    matrices = root @ root.mT + 0.1 * jnp.eye(side)
    ways = {
      "one_at_a_time": jax.jit(lambda stack: jax.lax.map(inverse, stack)),
      "batched": jax.jit(jax.vmap(inverse)),
    }
    # The inverse of the inverse is again one of the kind, and each step waits for the last.
    programs = [Program(way, matrices) for way in ways.values()]
    in_turn(programs, **often)
    times = {f"{name}_ms": p.milliseconds for name, p in zip(ways, programs, strict=True)}
    rows.append({"matrices": number, "side": side, **times})
  return rows


def table(rows: list[dict]) -> str:
  """As Markdown: steps, then inverses."""
  timed = [row for row in rows if "step" in row]
  sgd = timed[0]["step_ms"]
  lines = [
    f"{timed[0]['network']}, float32:",
    "",
    "| step | time | of SGD's | memory | compilation |",
    "|---|---|---|---|---|",
  ]
  lines += [
    f"| {row['step']} | {row['step_ms']:.2f} ms | {row['step_ms'] / sgd:.2f}"
    f" | {row['memory_gb']:.2f} GB | {row['compile_s']:.0f} s |"
    for row in timed
  ]
  lines += ["", "| inverses by Cholesky | one at a time | batched |", "|---|---|---|"]
  lines += [
    f"| {row['matrices']} of {row['side']} x {row['side']} | {row['one_at_a_time_ms']:.2f} ms"
    f" | {row['batched_ms']:.2f} ms |"
    for row in rows
    if "matrices" in row
  ]
  return "\n".join(lines)
