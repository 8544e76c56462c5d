"""The train step without shortcuts and normalisation, against that of the usual ResNet."""

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import optax

import tatnet
from accelerators.clock import Program, compiled, in_turn
from tatnet import training

FULL = ("resnet50", {}, (256, 224, 224, 3), 1000)
TOY = ("mlp", {"depth": 14, "width": 8}, (4, 8), 10)
MANY = {"steps": 20, "repeats": 5}
FEW = {"steps": 2, "repeats": 2}


def measure(toy: bool) -> list[dict]:
  """A row for the shaped network and one for its baseline, SGD with momentum in bfloat16."""
  name, options, shape, classes = TOY if toy else FULL
  rows, programs = [], []
  for network in (name, f"{name}-bn"):
    program, row = train_step(tatnet.nets.create(network, classes, **options), shape, classes)
    programs.append(program)
    rows.append({"network": network, **row})
  in_turn(programs, **(FEW if toy else MANY))
  for program, row in zip(programs, rows, strict=True):
    row |= {
      "step_ms": program.milliseconds,
      "images_per_second": 1000 * shape[0] / program.milliseconds,
      "seconds": program.seconds,
    }
  return rows


def train_step(network, shape: tuple[int, ...], classes: int) -> tuple[Program, dict]:
  """The compiled step of a network on one batch, and what compiling it told."""
  policy = jmp.get_policy("params=float32,compute=bfloat16,output=float32")
  hk.mixed_precision.set_policy(network.module, policy)
  optimizer = optax.sgd(1e-6, momentum=0.9)
  key = jax.random.key(0)
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  state = training.create_state(network, optimizer, key, images)
  batch = {
    "image": jax.random.normal(key, shape),
    "label": jax.random.randint(key, shape[:1], 0, classes),
  }
  step = training.make_train_step(network, tatnet.optim.SoftmaxCrossEntropy(), optimizer)
  program, seconds, needed = compiled(step, state, batch, refresh=False)
  row = {
    "batch": shape[0],
    "precision": "bfloat16",
    "compile_s": seconds,
    "memory_gb": needed / 1e9,
  }
  return Program(lambda state: program(state, batch)[0], state), row


def table(rows: list[dict]) -> str:
  """As Markdown; ratios are to the last row."""
  lines = [
    "| network | step | images/s | memory | compilation | step, memory of the baseline |",
    "|---|---|---|---|---|---|",
  ]
  base = rows[-1]
  lines += [
    f"| {row['network']}, batch {row['batch']}, {row['precision']} | {row['step_ms']:.1f} ms"
    f" | {row['images_per_second']:.0f} | {row['memory_gb']:.2f} GB | {row['compile_s']:.0f} s"
    f" | {row['step_ms'] / base['step_ms']:.2f}, {row['memory_gb'] / base['memory_gb']:.2f} |"
    for row in rows
  ]
  return "\n".join(lines)
