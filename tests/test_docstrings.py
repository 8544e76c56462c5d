"""What every public name's docstring has: a summary, its arguments, its errors, an example."""

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
import textwrap

import pytest

import tatnet


def public_objects():
  """Functions and classes that the packages and the modules they export say are public."""
  packages = [p.name for p in pkgutil.walk_packages(tatnet.__path__, "tatnet.") if p.ispkg]
  modules = [importlib.import_module(name) for name in ("tatnet", *packages)]
  found = {}
  for module in modules:
    for name in module.__all__:
      value = getattr(module, name)
      if inspect.ismodule(value):
        members = {} if hasattr(value, "__path__") else vars(value)
        own = {k: v for k, v in members.items() if getattr(v, "__module__", "") == value.__name__}
        found |= {f"{value.__name__}.{k}": v for k, v in own.items() if not k.startswith("_")}
      elif callable(value):
        found.setdefault(f"{value.__module__}.{name}", value)
  return {name: v for name, v in found.items() if inspect.isclass(v) or inspect.isfunction(v)}


PUBLIC = public_objects()


def section(text: str, *headings: str) -> str:
  """The indented text below a heading of a Google-style docstring."""
  pattern = rf"^(?:{'|'.join(headings)}):\n((?:[ ]+.*\n|\n)*)"
  return "".join(re.findall(pattern, text + "\n", flags=re.M))


def arguments(value) -> list[str]:
  """Names that a call takes; for records of fields, those."""
  if is_protocol(value):
    return []
  if inspect.isclass(value):
    if dataclasses.is_dataclass(value):
      return [field.name for field in dataclasses.fields(value) if field.init]
    if hasattr(value, "_fields"):
      return list(value._fields)
    if "__init__" not in vars(value) or issubclass(value, BaseException):
      return []
    value = value.__init__
  return [name for name in inspect.signature(value).parameters if name not in ("self", "_")]


def is_result(value) -> bool:
  """Whether a function makes it, whose docstring then has the example."""
  named = re.search(r"`\w+` (returns|makes)\b", inspect.getdoc(value))
  return hasattr(value, "_fields") or bool(named)


def is_error(value) -> bool:
  return inspect.isclass(value) and issubclass(value, BaseException)


def is_protocol(value) -> bool:
  return getattr(value, "_is_protocol", False)


def raises(value) -> bool:
  """Whether a function, or the construction of a class, has an error of its own."""
  if is_protocol(value) or (inspect.isclass(value) and issubclass(value, enum.Enum)):
    return False
  if inspect.isclass(value):
    makers = [vars(value).get(name) for name in ("__init__", "__post_init__", "__new__")]
    return any(raises(maker) for maker in makers if inspect.isfunction(maker))
  try:
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
  except (OSError, TypeError):  # what a decorator has made
    return False
  return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstring(name):
  value = PUBLIC[name]
  text = inspect.getdoc(value) or ""
  lines = text.splitlines()
  assert lines, "no docstring"
  assert len(lines) == 1 or not lines[1], "the summary is one line, with an empty one below"
  assert lines[0].endswith((".", ":")), "the summary is a sentence"
  described = section(text, "Args", "Attributes")
  missing = [arg for arg in arguments(value) if not re.search(rf"^\s*\**{arg}:", described, re.M)]
  assert not missing, f"Args or Attributes lack {missing}"
  assert not raises(value) or section(text, "Raises"), "it raises, and has no Raises"
  if not (is_result(value) or is_protocol(value) or is_error(value)):
    assert ">>> " in section(text, "Examples?"), "no example"


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isclass(value)])
def test_public_methods_have_docstrings(name):
  methods = {key: value for key, value in vars(PUBLIC[name]).items() if not key.startswith("_")}
  functions = {key for key, value in methods.items() if inspect.isfunction(value)}
  inherited = {key for key in functions if inspect.getdoc(getattr(PUBLIC[name], key))}
  assert functions == inherited
