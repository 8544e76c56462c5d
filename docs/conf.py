"""Sphinx configuration. `sphinx-build -W -n docs docs/_build` needs no network."""

import importlib
import importlib.metadata
import inspect
import pkgutil

from sphinx.util import logging

import tatnet

project = "tatnet"
author = "The tatnet authors"
release = importlib.metadata.version("tatnet")
html_title = f"tatnet {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "special-members": "__call__"}
napoleon_custom_sections = ["Reference"]
napoleon_use_ivar = True
napoleon_attr_annotations = False  # types are in the signature
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

# `name` in a docstring is a link where it names something of the same module, else plain.
default_role = "py:obj"
nitpick_ignore_regex = [
  (r"py:obj", r".*"),
  # Types of other packages, whose inventories would have to be fetched.
  (r"py:.*", r"(jax|jaxlib|haiku|hk|jmp|optax|numpy|np|orbax|grain|matplotlib)\..*"),
  (r"py:.*", r"(collections|typing|enum|abc|dataclasses|os|pathlib|types)\..*"),
  # The library's own types that are seen in signatures and not exported.
  (r"py:class", r"tatnet\.attention\.layer\.Vectors"),
  (r"py:class", r"tatnet\.shaping\.(conditions\.LocalConditions|method\.Method)"),
  (r"py:class", r"tatnet\.optim\.(dummies\.Tap|patches\.Window|batch_model\.BatchModel)"),
  (r"py:class", r"tatnet\.nets\.(options\.NetworkOptions|plan\.Plan|plan\.BlockPlan)"),
  (r"py:class", r"tatnet\.training\.data\.(pieces\.Pieces|decode\.Draws)"),
  (r"py:class", r"tatnet\.diagnostics\.kernels\.verdict\.Finding|Figure"),
]


def public_names():
  """What the packages, and the modules that they export, say is public."""
  packages = [p.name for p in pkgutil.walk_packages(tatnet.__path__, "tatnet.") if p.ispkg]
  for package in ["tatnet", *packages]:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
      value = getattr(module, name)
      if not inspect.ismodule(value):
        yield name
      elif not hasattr(value, "__path__"):  # a package comes by itself
        for name, member in inspect.getmembers(value):
          if getattr(member, "__module__", "") == value.__name__ and not name.startswith("_"):
            yield name


def check_complete(app, env):
  """Every public name has to be in the API reference."""
  documented = {name.rpartition(".")[2] for name in env.domains["py"].objects}
  missing = sorted(set(public_names()) - documented)
  if missing:
    logging.getLogger(__name__).warning("not in docs/api: %s", ", ".join(missing))


def skip_member(app, what, name, obj, skip, options):
  """Fields of named tuples are described in the docstring of the class."""
  return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
  app.connect("env-check-consistency", check_complete)
  app.connect("autodoc-skip-member", skip_member)
