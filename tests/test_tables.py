"""Tables of the pages are those of the JSON beside them."""

import importlib.util
import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tables():
  spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def pages():
  return [path for path in DOCS.rglob("*.md") if "<!-- table " in path.read_text()]


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.stem)
def test_a_page_has_the_tables_that_its_runs_make(tables, page):
  text = page.read_text()
  assert text == tables.with_tables(text), "python docs/tables.py"


def test_every_table_and_every_file_of_results_is_on_a_page(tables):
  text = "".join(path.read_text() for path in pages())
  assert set(re.findall(r"<!-- table (\w+) -->", text)) == set(tables.TABLES)
  for path in tables.RESULTS.glob("*.json"):
    assert path.name in text, path


def test_a_number_that_differs_is_put_right(tables):
  page = next(path for path in pages() if path.stem == "kfac").read_text()
  damaged = page.replace("| 27.2,", "| 26.2,")
  assert damaged != page == tables.with_tables(damaged)
