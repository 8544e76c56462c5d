"""Characters of Python's own source: whole, split by file, the same whatever the order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatnet.training import data


@pytest.fixture
def folder(tmp_path):
  for number in range(60):
    path = tmp_path / f"package{number % 3}" / f"module_{number}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(f"x_{number:02} = {number:02}\r\n".encode())
  for other in ("test/test_a.py", "site-packages/b.py", "package0/tests/c.py"):
    (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / other).write_text("left_out = True\n")
  (tmp_path / "package0" / "notes.txt").write_text("no Python")
  return tmp_path


def read(folder, split):
  inputs, labels = data.load_source(split, 10, folder)
  return data.decode_text(inputs.ravel()), inputs, labels


def test_every_module_is_in_one_split(folder):
  texts = [read(folder, split)[0] for split in ("train", "test")]
  # The end of a split, which fills no piece, is left out: at most one module of each.
  found = [sum(f"x_{number:02} = {number:02}" in text for text in texts) for number in range(60)]
  assert set(found) <= {0, 1}
  assert sum(found) >= 58
  for text in texts:
    assert "left_out" not in text
    assert "\r" not in text
    assert data.decode_text([data.CHARACTERS - 1]) not in text
  assert len(texts[0]) > 3 * len(texts[1]) > 0


def test_labels_are_the_characters_that_follow(folder):
  _, inputs, labels = read(folder, "train")
  assert (inputs.dtype, labels.dtype) == (np.uint8, np.int32)
  np.testing.assert_array_equal(inputs.ravel()[1:], labels.ravel()[:-1])


def test_a_module_stays_in_its_split_when_others_come(folder):
  before = read(folder, "test")[0]
  (folder / "package1" / "one_more.py").write_text("more = 1\n")
  after = read(folder, "test")[0]
  assert set(before.split("\n")[:-1]) <= set(after.split("\n"))


def test_the_digest_is_of_the_content(folder, tmp_path_factory):
  before = data.source_digest(folder)
  other = tmp_path_factory.mktemp("other")
  for path in sorted(folder.rglob("*.py"), reverse=True):
    copy = other / path.relative_to(folder)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(path.read_bytes())
  assert data.source_digest(other) == before
  (other / "package0" / "module_0.py").write_text("another = 0\n")
  third = other.rename(other.with_name("third"))
  assert data.source_digest(third) != before


def test_the_standard_library_is_large_and_is_python():
  inputs, _ = data.load_source("test", 1000)
  text = data.decode_text(inputs.ravel())
  assert len(text) > 300_000
  assert text.count("def ") > 1000


@given(st.text())
def test_characters_of_the_alphabet_come_back(text):
  numbers = data.encode_text(text)
  assert len(numbers) == len(text)
  kept = [c if c == "\n" or " " <= c <= "~" else "\N{REPLACEMENT CHARACTER}" for c in text]
  assert data.decode_text(numbers) == "".join(kept)


def test_bad_arguments(folder, tmp_path):
  with pytest.raises(ValueError, match="expected 'train' or 'test'"):
    data.load_source("validation", 10, folder)
  with pytest.raises(ValueError, match="characters from 1"):
    data.load_source("train", 0, folder)
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="has 0 characters of Python for 'train'"):
    data.load_source("train", 10, tmp_path / "empty")
  with pytest.raises(ValueError, match="expected 0 to 96"):
    data.decode_text([97])
