"""The figures of idea.md, computed by the library: `python docs/figures.py`."""

import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import tatnet

FIGURES = pathlib.Path(__file__).parent / "figures"
COSINES = np.linspace(-1, 1, 201)
DEPTH = 100


def c_maps_by_depth():
  """Chains of ReLU layers collapse; with TAT the map is the same at every depth."""
  figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True)
  depths = (3, 10, 30, 100, 300)
  for depth, colour in zip(depths, shades(len(depths)), strict=True):
    network = tatnet.chain(depth)
    shaped = tatnet.transform_activation("leaky_relu", network, tatnet.TAT(eta=0.5))
    for axis, activation in zip(axes, ("relu", shaped), strict=True):
      c = tatnet.cmap(network, activation, COSINES)
      axis.plot(COSINES, c, color=colour, label=f"{depth} layers")
  axes[0].set_title("ReLU")
  axes[1].set_title("Tailored ReLU, $C_f(0) = 0.5$")
  finish(figure, axes, "c_maps_by_depth")


def c_maps_by_shortcut():
  """A shortcut is one way to keep the C map of a ReLU network away from 1."""
  figure, axis = plt.subplots(figsize=(4.6, 3.8))
  weights = (0.0, 0.5, 0.8, 0.9, 0.97)
  for weight, colour in zip(weights, shades(len(weights)), strict=True):
    network = tatnet.nets.ResNet.topology(50, shortcut_weight=weight)
    c = tatnet.cmap(network, "relu", COSINES)
    axis.plot(COSINES, c, color=colour, label=f"w = {weight:g}")
  axis.set_title("ResNet-50 with ReLU, shortcut weight w")
  finish(figure, [axis], "c_maps_by_shortcut")


def through_the_layers():
  """q and c after each layer, for inputs with q = 1 and c = 0 or 0.9."""
  network = tatnet.chain(DEPTH)
  cases = {
    "tanh": tatnet.local_maps("tanh"),
    "tanh, edge of chaos": tatnet.local_maps(solved("tanh", network, tatnet.EOC(sigma_b=0.2))),
    "ReLU, edge of chaos": tatnet.local_maps(solved("relu", network, tatnet.EOC())),
    "tanh, DKS": tatnet.local_maps(solved("tanh", network, tatnet.DKS())),
    "tanh, TAT": tatnet.local_maps(solved("tanh", network, tatnet.TAT())),
    "leaky ReLU, TAT": tatnet.local_maps(solved("leaky_relu", network, tatnet.TAT())),
  }
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
  colours = ("tab:gray", "tab:brown", "tab:red", "tab:green", "tab:cyan", "tab:blue")
  for (name, maps), colour in zip(cases.items(), colours, strict=True):
    for start, style in ((0.0, "-"), (0.9, ":")):
      q, c = trajectory(maps, start)
      axes[1].plot(c, style, color=colour, label=name if style == "-" else None)
    axes[0].plot(q, color=colour, label=name)
  axes[0].set(title="length", xlabel="layer", ylabel="q", ylim=(0, 1.5))
  axes[0].text(50, 1.05, "ReLU, TAT and DKS", ha="center")
  axes[1].set(title="angle: from c = 0 (lines) and 0.9 (dots)", xlabel="layer", ylabel="c")
  axes[1].legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.42))
  save(figure, "through_the_layers")


def solved(name, network, method):
  return tatnet.transform_activation(name, network, method)


def trajectory(maps, c):
  """q and c after 0, 1, ... layers, for two vectors with q = 1."""
  q, qs, cs = 1.0, [1.0], [c]
  for _ in range(DEPTH):
    c = maps.C(c, q, q)
    q = maps.Q(q)
    qs.append(q)
    cs.append(c)
  return qs, cs


def shades(count):
  return plt.get_cmap("viridis")(np.linspace(0.0, 0.85, count))


def finish(figure, axes, name):
  """Axes of C maps, the diagonal, and the file."""
  for axis in axes:
    axis.plot(COSINES, COSINES, color="black", linestyle=":", linewidth=1)
    axis.set(xlabel="c of two inputs", ylim=(-1.03, 1.03))
  axes[0].set_ylabel("c at the output, $C_f(c)$")
  axes[-1].legend(fontsize=8, loc="lower right")
  save(figure, name)


def save(figure, name):
  figure.tight_layout()
  figure.savefig(FIGURES / f"{name}.png", dpi=110)
  plt.close(figure)


if __name__ == "__main__":
  c_maps_by_depth()
  c_maps_by_shortcut()
  through_the_layers()
