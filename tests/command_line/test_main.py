"""The command line: what it writes, and its exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest

import tatnet
from tatnet.command_line import main


def test_solve_writes_the_numbers(capsys):
  assert main(["solve", "leaky_relu", "--depth", "49"]) == 0
  out = capsys.readouterr().out
  assert "negative_slope  0.42590719" in out
  assert "C(0) = 0.9," in out


def test_solve_writes_json(capsys):
  arguments = ["solve", "tanh", "--network", "resnet50", "--method", "dks", "--zeta", "1.4"]
  assert main([*arguments, "--json"]) == 0
  data = json.loads(capsys.readouterr().out)
  act = tatnet.transform_activation("tanh", tatnet.chain(49), tatnet.DKS(1.4))
  for key, value in act.to_dict().items():
    assert data[key] == value
  assert data["method"] == {"name": "dks", "zeta": 1.4, "q_slope": 1.0}
  assert data["num_nonlinear"] == 49
  assert data["local"]["c_slope"] == pytest.approx(1.4 ** (1 / 49))


def test_json_has_the_slope_of_a_leaky_relu(capsys):
  """All that is needed to write the activation elsewhere, default values included."""
  assert main(["solve", "leaky_relu", "--depth", "49", "--method", "eoc", "--json"]) == 0
  data = json.loads(capsys.readouterr().out)
  slope, gain = data["negative_slope"], data["output_scale"]
  assert slope == 0.01
  assert gain**2 * (1 + slope**2) / 2 == pytest.approx(1)


def test_json_has_no_infinities(capsys):
  assert main(["solve", "relu", "--depth", "3", "--method", "eoc", "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["local"]["c_curvature"] is None


def test_solve_for_a_network_with_shortcuts(capsys):
  arguments = ["solve", "leaky_relu", "--network", "resnet50", "--shortcut-weight", "0.8"]
  assert main(arguments) == 0
  assert "0.1541005" in capsys.readouterr().out  # tat_dks.md A7


def test_nets(capsys):
  assert main(["nets"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert {"mlp", "resnet50", "cifar_resnet20"} <= set(lines)
  assert "-noshort" in lines[-1]


@pytest.mark.parametrize(
  ("arguments", "code", "message"),
  [
    (["solve", "leaky_relu", "--depth", "5"], 1, "out of reach for 5 nonlinear layers"),
    (["solve", "selu", "--depth", "5"], 1, "slope jumps"),
    (["solve", "leky_relu", "--depth", "49"], 2, "Did you mean 'leaky_relu'"),
    (["solve", "leaky_relu"], 2, "--depth"),
    (["report", "some:net", "--depth", "3"], 2, "--depth goes with a named network"),
    (["report", "some:net", "--shortcut-weight", "0"], 2, "--shortcut-weight goes with a named"),
    (["solve", "leaky_relu", "--depth", "0"], 2, "n=0"),
    (["solve", "leaky_relu", "--depth", "9", "--eta", "2"], 2, "eta=2"),
    (["solve", "tanh", "--depth", "9", "--zeta", "2"], 2, "--zeta does not go with --method tat"),
    (["solve", "tanh", "--depth", "9", "--width", "2"], 2, "--width goes with --network"),
    (["solve", "leaky_relu", "--depth", "9", "--tau", "1"], 2, "--tau changes nothing for 'leaky"),
    (["solve", "tanh", "--depth", "9", "--eta", "0.9"], 2, "--eta changes nothing for 'tanh'"),
    (
      ["solve", "relu", "--depth", "9", "--method", "dks", "--q-slope", "1"],
      2,
      "--q-slope changes nothing for 'relu'",
    ),
    (["solve", "leaky_relu", "--depth", "1000000000"], 2, "expected at most 10000"),
    (["report", "mlp", "--width", "8", "--depth", "1000000000"], 2, "expected at most 10000"),
    (
      ["report", "mlp", "--width", "8", "--depth", "9", "--tau", "1"],
      2,
      "--tau changes nothing for 'leaky_relu'",
    ),
    (["solve", "tanh", "--network", "resnet51"], 2, "depth=51"),
    (["solve", "tanh", "--network", "resnet50-bn"], 2, "is a baseline"),
    (["solve", "tanh", "--network", "mlp"], 2, "needs --depth and --width"),
    (["solve", "tanh", "--network", "resnet50", "--depth", "3"], 2, "--depth does not go with"),
    (["solve", "tanh", "--network", "resnet50", "--shortcut-weight", "1"], 2, "shortcut_weight=1"),
    (["report", "no_such_module:forward", "--input-shape", "8"], 2, "cannot be imported"),
    (["report", "math:forward", "--input-shape", "8"], 2, "no function 'forward'"),
    (["report", "math:sqrt"], 2, "needs --input-shape or --inputs"),
    (["report", "mlp", "--depth", "4", "--width", "8", "--seeds", "0"], 2, "--seeds 0"),
    (["report", "mlp", "--inputs", "no_such_file.npy"], 2, "no_such_file.npy"),
    (["report", "mlp", "--png", "no_such_folder/report.png"], 2, "no such folder"),
    (["report", "mlp", "--depth", "4", "--width", "8"], 1, "out of reach"),
  ],
)
def test_errors(arguments, code, message, capsys):
  assert main(arguments) == code
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("tatnet: error: ")
  assert message in captured.err


@pytest.mark.parametrize(
  "arguments",
  [
    [],
    ["solve"],
    ["solve", "tanh", "--depth", "x"],
    ["sovle"],
    ["report", "mlp", "--input-shape", "8,"],
    ["report", "mlp", "--inputs", "a.npy", "--input-shape", "3"],
  ],
)
def test_bad_usage(arguments, capsys):
  with pytest.raises(SystemExit) as stopped:
    main(arguments)
  assert stopped.value.code == 2
  assert "usage: tatnet" in capsys.readouterr().err


def test_inputs_that_are_no_array(tmp_path, capsys):
  np.savez(tmp_path / "several.npz", a=np.ones(3))
  (tmp_path / "empty.npy").touch()
  for name in ("several.npz", "empty.npy"):
    assert main(["report", "mlp", "--inputs", str(tmp_path / name)]) == 2
    assert "expected one array, as np.save writes it" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["solve"], ["report"], ["nets"]])
def test_help_has_examples(arguments, capsys):
  with pytest.raises(SystemExit) as stopped:
    main([*arguments, "--help"])
  assert stopped.value.code == 0
  out = capsys.readouterr().out
  assert "examples:" in out
  assert "\n  tatnet " in out


def test_report_of_a_named_network(tmp_path, capsys):
  png = tmp_path / "report.png"
  arguments = ["report", "mlp", "--depth", "20", "--width", "64", "--eta", "0.7", "--seeds", "2"]
  assert main([*arguments, "--png", str(png), "--check"]) == 0
  assert "Verdict: well shaped." in capsys.readouterr().out
  assert png.read_bytes().startswith(b"\x89PNG")


MODEL = """
import haiku as hk

def forward(x, activation):
  x = hk.Flatten()(x)
  for _ in range(3):
    x = activation(hk.Linear(16)(x))
  return hk.Linear(2)(x)

def pooled(x, activation):
  x = hk.max_pool(hk.Conv2D(8, 3)(x), (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
  return hk.Linear(2)(activation(hk.Conv2D(8, 1)(x)).mean((1, 2)))

def broken(x, activation):
  return {}["key"]

def unnormalized(x, activation):
  y = hk.Linear(8)(x)
  return hk.Linear(2)(activation(y + hk.Linear(8)(activation(y))))
"""


@pytest.fixture
def own_model(tmp_path, monkeypatch):
  (tmp_path / "own_model.py").write_text(MODEL)
  np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=[5, 4, 4, 2]))
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "own_model", raising=False)


@pytest.mark.usefixtures("own_model")
def test_report_of_a_function(capsys):
  path = list(sys.path)
  arguments = ["report", "own_model:forward", "--inputs", "images.npy", "--seeds", "2"]
  assert main([*arguments, "--activation", "relu", "--method", "none", "--check"]) == 0
  assert "5 inputs, 10 pairs" in capsys.readouterr().out
  assert sys.path == path


@pytest.mark.usefixtures("own_model")
def test_failed_check(capsys):
  arguments = ["report", "mlp", "--depth", "40", "--width", "64", "--activation", "relu"]
  assert main([*arguments, "--method", "eoc", "--seeds", "2", "--check"]) == 1
  assert "collapses to c = 1" in capsys.readouterr().out


@pytest.mark.usefixtures("own_model")
@pytest.mark.parametrize(
  ("name", "message"), [("broken", "failed: KeyError: 'key'"), ("unnormalized", "not normalised")]
)
def test_functions_that_fail(name, message, capsys):
  assert main(["report", f"own_model:{name}", "--input-shape", "8", "--activation", "tanh"]) == 2
  assert message in capsys.readouterr().err


@pytest.mark.usefixtures("own_model")
def test_warnings_are_passed_on(capsys):
  arguments = ["report", "own_model:pooled", "--input-shape", "8,8,3", "--seeds", "1"]
  assert main([*arguments, "--activation", "tanh", "--method", "none"]) == 0
  assert "tatnet: warning: " in capsys.readouterr().err


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "tatnet", *arguments], capture_output=True, text=True, check=False
  )


def test_as_a_process():
  done = run("solve", "leaky_relu", "--depth", "49")
  assert done.returncode == 0
  assert "0.42590719" in done.stdout
  failed = run("solve", "leaky_relu", "--depth", "5")
  assert failed.returncode == 1
  assert failed.stderr.startswith("tatnet: error: ")
  assert "Traceback" not in failed.stderr


def test_transformers_are_solved_in_python(capsys):
  assert main(["solve", "tanh", "--network", "transformer"]) == 2
  assert "tatnet.nets.create" in capsys.readouterr().err
