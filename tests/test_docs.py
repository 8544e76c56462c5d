"""README, docs and docstrings: every example runs."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tatnet

ROOT = pathlib.Path(__file__).parents[1]
CODE = re.compile(r"^```python\n(.*?)^```", flags=re.M | re.S)
PAGES = {
  str(path.relative_to(ROOT)): CODE.findall(path.read_text())
  for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
}
MODULES = [
  "tatnet",
  *(module.name for module in pkgutil.walk_packages(tatnet.__path__, prefix="tatnet.")),
]


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if blocks])
def test_code_of_page_runs(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  namespace = {}
  for block in PAGES[page]:
    exec(compile(block, page, "exec"), namespace)


def test_readme_shows_code():
  assert PAGES["README.md"]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
  result = doctest.testmod(
    importlib.import_module(name),
    extraglobs={
      "tatnet": tatnet,
      "jax": jax,
      "jnp": jnp,
      "np": np,
      "hk": hk,
      "optax": optax,
    },
  )
  assert result.failed == 0
