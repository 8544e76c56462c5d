"""Figures of what `tatnet.diagnostics` computes without data: those of docs/diagnostics/gallery.md.

    python examples/gallery.py
    python examples/gallery.py descent factors --out docs/figures

Each figure is a function of this file that shows how its tools are called. Together
they take about half a minute.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from tatnet.diagnostics import dynamics, expressivity, linear_residual, tangent_kernel

FIGURES = {}


def figure(draw):
  """Registers a function that draws on two axes, by its name."""

  def drawn():
    made = Figure(figsize=(9, 3.6), layout="constrained")
    draw(*made.subplots(1, 2))
    return made

  FIGURES[draw.__name__] = drawn
  return draw


@figure
def random_walk(left, right):
  """Effective learning rates of a random walk and of the model, to their common ends."""
  base_norms, steps = np.array([1e-2, 1e-1, 1.0, 1e1, 1e2]), 10_000
  sizes = [1000] * len(base_norms)
  settings = {"momentum": 0.9, "weight_decay": 1e-2}
  for axis, options in ((left, {}), (right, settings)):
    walk = dynamics.random_walk(
      jax.random.key(0), sizes, base_norms, 1.0, steps, deviations=1000**-0.5, **options
    )
    model = dynamics.predict(np.asarray(walk.rates[0]), 1.0, steps - 1, **options)
    time = np.arange(1, steps + 1)
    axis.loglog(time, walk.rates, alpha=0.7)
    axis.loglog(time, model.rates, "k:", linewidth=1)
    axis.set(xlabel="step", ylabel="effective learning rate", xlim=(1, steps))
  left.loglog(time, 1 / np.sqrt(2 * time), "k--", linewidth=1, label="$1 / \\sqrt{2 t}$")
  right.axhline(
    dynamics.equilibrium_rate(1.0, 1e-2, 0.9), color="k", linestyle="--", label="equilibrium"
  )
  left.set_title("gradient descent: walk (lines), model (dots)")
  right.set_title("momentum 0.9, weight decay 0.01")
  left.legend()
  right.legend()


@figure
def critical_rate(left, right):
  """Spread of the effective learning rates below and above the critical learning rate."""
  multiples = np.logspace(-3, 3, 121)
  for axis, layers in ((left, 2), (right, 56)):
    rates = np.logspace(0, -3, layers)
    critical = float(dynamics.critical_learning_rate(rates))
    futures = [dynamics.predict(rates, multiple * critical, 100) for multiple in multiples]
    for steps in (1, 10, 100):
      spread = [future.spread[steps] for future in futures]
      axis.loglog(multiples, spread, label=f"after {steps} step" + "s" * (steps > 1))
    axis.axhline(1e3, color="k", linestyle="--", linewidth=1, label="before")
    axis.set(xlabel="learning rate over the critical one", ylabel="spread of effective rates")
    axis.set_title(f"{layers} layers, in the model")
  right.legend()


@figure
def factors(left, right):
  """The norm of the factors of Theorem 2.1 against the number of layers."""
  rng = np.random.default_rng(0)
  counts = np.unique(np.logspace(1, 3, 25).astype(int))
  for place, (size, gamma) in enumerate([(4, 0.5), (10, 2.0), (30, 5.0)]):
    left_basis, right_basis = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    left_basis[0] *= np.sign(np.linalg.det(left_basis) * np.linalg.det(right_basis))
    values = np.exp(gamma * np.linspace(-1, 1, size))
    target = left_basis @ np.diag(values) @ right_basis
    enough = counts[counts >= 3 * gamma]
    made = [linear_residual.small_norm_factors(target, int(count)) for count in enough]
    norms = [np.linalg.norm(found, 2, axis=(1, 2)).max() for found in made]
    bounds = [linear_residual.small_norm_bound(gamma, int(count)) for count in enough]
    errors = [np.abs(linear_residual.end_to_end(found) - target).max() for found in made]
    left.loglog(enough, norms, "o-", markersize=3, color=f"C{place}", label=f"d={size}, γ={gamma}")
    left.loglog(enough, bounds, "--", color=f"C{place}", linewidth=1)
    right.loglog(enough, errors, "o-", markersize=3, color=f"C{place}")
  left.set(xlabel="layers", ylabel="largest norm of a factor", title="norm (dashed: the bound)")
  left.legend()
  right.set(xlabel="layers", ylabel="largest error of the product", title="reconstruction")


@figure
def parameters(left, right):
  """The size of the network of Theorem 3.2, and that it fits what it was made for."""
  inputs, classes = 100, 10
  counts = np.unique(np.logspace(2, 6, 60).astype(int))
  needed = np.array(
    [expressivity.expressive_parameter_count(int(n), inputs, classes) for n in counts]
  )
  orders = counts * np.log(counts) + classes**2
  left.loglog(counts, needed, label="parameters")
  left.loglog(counts, orders, "k--", linewidth=1, label="$n \\log n + r^2$")
  right.semilogx(counts, needed / orders)
  rng = np.random.default_rng(0)
  for n in (100, 300, 1000, 3000):
    x = rng.normal(size=(n, inputs))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = rng.integers(0, classes, n)
    network = expressivity.expressive_network(x, labels, classes)
    outputs = network(jnp.asarray(x, jnp.float32))
    fitted = int(np.sum(np.argmax(outputs, 1) == labels))
    left.plot(n, network.num_parameters, "o", color="C0")
    left.annotate(
      f"{fitted} of {n}",
      (n, network.num_parameters),
      (6, -10),
      textcoords="offset points",
      fontsize=8,
    )
    right.plot(n, network.num_parameters / (n * np.log(n) + classes**2), "o", color="C0")
  left.set(xlabel="examples n", ylabel="parameters", title="points: built, random labels fitted")
  left.legend()
  right.set(xlabel="examples n", ylabel="parameters over $n \\log n + r^2$", ylim=(0, 30))
  right.set_title(f"{inputs} inputs, {classes} classes")


@figure
def descent(left, right):
  """Gradient descent from zero on a target of positive and of negative determinant."""
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
  stretched = basis @ np.diag(np.exp([0.6, 0.4, 0.2, -0.1, -0.3, -0.5])) @ basis.T
  targets = {"det > 0": stretched, "det < 0: one reflection": np.diag([-1.0, 1, 1, 1, 1, 1])}
  for name, target in targets.items():
    result = linear_residual.descend(target, layers=8, step_size=0.01, steps=1000)
    left.loglog(np.arange(1, 1002), np.maximum(result.losses, 1e-30), label=name)
    right.semilogx(np.arange(1, 1002), result.largest_norms, label=name)
  left.set(xlabel="step", ylabel="excess risk", title="8 linear residual layers, from A = 0")
  right.set(xlabel="step", ylabel="largest norm of a factor")
  left.legend()


def _plain(w, x):
  return jnp.tanh(x @ w)


def _residual(w, x):
  return x + jnp.tanh(x @ w)


@figure
def kernel_bound(left, right):
  """The smallest eigenvalue of the tangent kernel, and the bound, with and without shortcuts."""
  depths, width = range(1, 11), 6
  for axis, scale in ((left, 0.2), (right, 1.0)):
    for color, (name, layer) in enumerate({"plain": _plain, "shortcuts": _residual}.items()):
      found = np.empty([len(depths), 20, 2])
      for row, depth in enumerate(depths):
        for seed in range(20):
          rng = np.random.default_rng(seed)
          x = jnp.asarray(rng.normal(size=(4, width)), jnp.float32)
          weights = scale * rng.normal(size=(depth, width, width)) / width**0.5
          layers = [(layer, jnp.asarray(w, jnp.float32)) for w in weights]
          kernel = tangent_kernel.tangent_kernel(layers, x)
          bound = tangent_kernel.tangent_kernel_bound(layers, x).lower
          found[row, seed] = max(np.linalg.eigvalsh(kernel)[0], 0), bound
      eigenvalue, bound = np.median(found, 1).T
      axis.semilogy(depths, eigenvalue, color=f"C{color}", label=name)
      axis.semilogy(depths, bound, "--", color=f"C{color}")
    axis.set(xlabel="layers", ylabel="smallest eigenvalue", title=f"tanh, weight scale {scale}")
    axis.set(ylim=(1e-16, 1e2))
  left.legend(title="dashed: bound")


def main():
  """Draws the figures asked for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("figures", nargs="*", help=f"of {', '.join(FIGURES)}; all by default")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/gallery"))
  args = parser.parse_args()
  unknown = set(args.figures) - set(FIGURES)
  if unknown:
    parser.error(f"unknown figures {', '.join(sorted(unknown))}; expected {', '.join(FIGURES)}")
  args.out.mkdir(parents=True, exist_ok=True)
  for name in args.figures or FIGURES:
    path = args.out / f"{name}.png"
    FIGURES[name]().savefig(path, dpi=100)
    print(path)


if __name__ == "__main__":
  main()
