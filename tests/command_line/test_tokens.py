"""`tatnet report` of transformers."""

import numpy as np
import pytest

from tatnet.command_line.main import main

SMALL = ("--depth", "2", "--width", "16", "--heads", "2", "--context", "16", "--seeds", "1")


def run(*arguments):
  return main(["report", *arguments])


@pytest.mark.parametrize(
  "name",
  ["transformer", "transformer-prenorm", "transformer-shaped", "vision_transformer-cutskip"],
)
def test_tokens_block_by_block(capsys, name):
  more = ("--eta", "0.3") if name in ("transformer", "transformer-shaped") else ()
  assert run(name, *SMALL, *more) == 0
  said = capsys.readouterr().out
  assert f"{name.partition('-')[0]}/block_2/attention" in said
  assert "tokens stay apart (1 random networks)" in said


def test_figure_inputs_and_check(capsys, tmp_path):
  ids = tmp_path / "ids.npy"
  np.save(ids, np.zeros([2, 16], int))
  png = tmp_path / "tokens.png"
  more = ("--inputs", str(ids), "--png", str(png), "--check")
  # Softmax attention over one character repeated, whose positions are averaged block by block.
  assert run("transformer-vanilla", *SMALL, "--depth", "8", "--eta", "0.5", *more) == 1
  assert "rank collapse" in capsys.readouterr().out
  assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("arguments", "code", "said"),
  [
    (("transformer", "--patch", "2"), 2, "--patch goes with a vision_transformer"),
    (("transformer", "--version", "2"), 2, "--version goes with a ResNet"),
    (("transformer-none",), 2, "is no network"),
    (("transformer", "--depth", "2", "--eta", "0.9"), 1, "out of reach"),
    (("transformer-prenorm", "--eta", "0.5"), 2, "brings its activation along"),
    (("transformer", "--input-shape", "3,3,3"), 2, "whose sizes are --context, --patch"),
    (("vision_transformer", "--context", "15", "--eta", "0.3"), 2, "expected a square"),
    (("mlp", "--heads", "2"), 2, "--heads goes with a transformer"),
  ],
)
def test_bad_usage(capsys, arguments, code, said):
  assert run(*arguments) == code
  assert said in capsys.readouterr().err
