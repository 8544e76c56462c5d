"""The installed package: what importing it does, and what it must not do."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "tatnet"

IMPORT_ORDER = [
  # Each module may import those before it.
  {"derivatives", "quadrature", "roots", "initializers", "preprocessing"},
  {"kernels", "activations", "nodes"},
  {"maps", "topology"},
  {"methods", "validation", "interpolation"},
  {"transformed", "reach"},
  {"landscape", "moments", "rectifiers", "edge_of_chaos"},
  {"solver"},
  {"transform"},
  {"tracing.findings", "tracing.places", "tracing.axes", "tracing.initial_values"},
  {"tracing.expressions", "tracing.network"},
  {"tracing.values"},
  {"tracing.program"},
  {"tracing.signals"},
  {"tracing.elementwise", "tracing.affine", "tracing.reductions", "tracing.shapes"},
  {"tracing.rules"},
  {"tracing.api"},
  {"nets.options", "nets.gaussian", "nets.prelu", "nets.fast_init"},
  {"nets.plan"},
  {"nets.layers"},
  {"nets.shortcuts"},
  {"nets.residual"},
  {"nets.mlp", "nets.resnet"},
  {"nets.cifar", "nets.identity"},
  {"nets.registry"},
  {"optim.symmetric", "optim.patches", "optim.losses"},
  {"optim.inverses", "optim.taps"},
  {"optim.blocks"},
  {"optim.haiku_taps"},
  {"optim.runs"},
  {"optim.evaluate"},
  {"optim.kfac"},
  {"optim.alias"},
  {f"training.{name}" for name in ("state", "devices", "metrics", "checkpoints", "interruption")},
  {"training.step", "training.optimizers", "training.curves"},
  {"training.evaluation"},
  {f"training.data.{name}" for name in ("prepared", "records", "decode", "batches", "augment")},
  {"training.data.statistics"},
  {"training.data.arrays", "training.data.images"},
  {"training.data.pieces"},
  {"training.data.pipeline"},
  {"diagnostics.dynamics.trees", "diagnostics.dynamics.checks"},
  {"diagnostics.dynamics.rates", "diagnostics.dynamics.invariance", "diagnostics.dynamics.walk"},
  {f"diagnostics.dynamics.{name}" for name in ("record", "warm_up", "evolution", "constrain")},
  {"diagnostics.linear_residual.checks", "diagnostics.linear_residual.rotations"},
  {"diagnostics.linear_residual.risk", "diagnostics.linear_residual.factors"},
  {"diagnostics.linear_residual.descent"},
  {"diagnostics.jacobians"},
  {"diagnostics.tangent_kernel"},
  {"diagnostics.memorising"},
  {"diagnostics.expressivity"},
  {f"diagnostics.kernels.{name}" for name in ("verdict", "pairs", "probes", "interpolated_maps")},
  {"diagnostics.kernels.record", "diagnostics.kernels.fluctuations"},
  {f"diagnostics.kernels.{name}" for name in ("measurement", "prediction", "text", "figure")},
  {"diagnostics.kernels.report"},
  {"command_line.failure", "command_line.nets"},
  {"command_line.options"},
  {"command_line.solve", "command_line.report"},
  {"command_line.main"},
  {"__main__"},
]

PACKAGES = (
  *("", "tracing", "nets", "optim", "training", "training.data"),
  *("diagnostics", "diagnostics.dynamics", "diagnostics.linear_residual", "diagnostics.kernels"),
  "command_line",
)


def run(code: str) -> str:
  return subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout


def test_import_touches_no_global_state():
  code = """
import os, sys, jax
before = dict(os.environ), {k: getattr(jax.config, k) for k in ("jax_enable_x64", "jax_platforms")}
import tatnet
tatnet.transform_activation("tanh", tatnet.chain(10), tatnet.DKS())
after = dict(os.environ), {k: getattr(jax.config, k) for k in ("jax_enable_x64", "jax_platforms")}
print(before == after, "haiku" in sys.modules, "scipy" in sys.modules)
"""
  assert run(code).split() == ["True", "False", "False"]


def test_importing_starts_no_backend():
  code = """
import jax, tatnet
jax.config.update("jax_platforms", "no_such_platform")
try:
  jax.devices()
except RuntimeError:
  print("not started")
"""
  assert run(code).strip() == "not started"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_no_private_jax(path):
  text = path.read_text()
  assert "jax._src" not in text
  assert "jax.core" not in text


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_library_neither_prints_nor_configures(path):
  text = path.read_text()
  code = "\n".join(
    line for line in text.splitlines() if not line.lstrip().startswith((">>>", "..."))
  )
  for forbidden in ("print(", "config.update", "XLA_FLAGS", "np.random.seed", "os.environ"):
    assert forbidden not in code


@pytest.mark.parametrize("level", range(len(IMPORT_ORDER)))
def test_imports_point_one_way(level):
  allowed = set().union(*IMPORT_ORDER[:level])
  for name in IMPORT_ORDER[level]:
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text())
    imported = set()
    for node in tree.body:  # imports inside functions are late on purpose
      if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "tatnet":
        inner = node.module.removeprefix("tatnet").removeprefix(".")
        if inner in PACKAGES:
          imported |= {f"{inner}.{alias.name}".removeprefix(".") for alias in node.names}
        else:
          imported.add(inner)
    assert imported <= allowed, f"{name} imports {imported - allowed}"


def test_every_module_has_its_place_in_the_order():
  modules = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
  }
  assert {m for m in modules if not m.endswith("__init__")} == set().union(*IMPORT_ORDER)
