"""The installed package: what importing it does, and what it must not do."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "tatnet"

# Each room may import those of the lines before it, and itself.
ROOMS = [
  {"layer", "network"},
  {"shaping", "initializers", "preprocessing"},
  {"attention"},
  {"tracing"},
  {"nets", "optim"},
  {"diagnostics", "training"},
  {"command_line"},
  {"__init__", "__main__"},
]
AT_THE_ROOT = {"__init__.py", "__main__.py", "initializers.py", "preprocessing.py", "py.typed"}
MODULES = {
  ".".join(("tatnet", *path.relative_to(PACKAGE).with_suffix("").parts)): path
  for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(name: str) -> set[str]:
  """Modules of the library that a module's import statements name, wherever they stand."""
  found = set()
  for node in ast.walk(ast.parse(MODULES[name].read_text())):
    if isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{name} imports relatively"
      named = [f"{node.module}.{alias.name}" for alias in node.names]
      found |= {whole if module_named(whole) else node.module for whole in named}
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
  found = {module_named(whole) for whole in found if whole.split(".")[0] == "tatnet"}
  assert None not in found, f"{name} imports what does not exist"
  return found


def module_named(whole: str) -> str | None:
  """The module of that name; of a package its __init__."""
  return next((m for m in (whole, f"{whole}.__init__") if m in MODULES), None)


def room_of(name: str) -> str:
  return name.split(".")[1]


def level_of(name: str) -> int:
  return next(level for level, rooms in enumerate(ROOMS) if room_of(name) in rooms)


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


def test_nothing_else_at_the_root():
  files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
  assert files == AT_THE_ROOT


def test_every_folder_is_a_room():
  folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
  assert folders <= set().union(*ROOMS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
  for imported in imports_of(name):
    allowed = level_of(imported) < level_of(name) or room_of(imported) == room_of(name)
    assert allowed, f"{name} imports {imported}, whose room is not below"


def test_no_module_imports_itself_by_way_of_others():
  # A function that loads packages by their name at first use is no import statement.
  rest = {name: imports_of(name) for name in MODULES}
  while free := [name for name, imported in rest.items() if not imported & set(rest)]:
    for name in free:
      del rest[name]
  assert not rest, f"a circle among {sorted(rest)}"
