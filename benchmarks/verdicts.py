"""Does the kernel report's verdict tell which networks train?

    python benchmarks/verdicts.py

Twelve multilayer perceptrons for scikit-learn's digits: shaped ones, unshaped ones,
narrow ones, chaotic ones. Each gets a verdict from 32 images and three random
networks, before it is trained. Then it is trained by Adam, 200 steps of batch 128,
at each of three learning rates. It has reached the loss if the training loss, as a
mean of 20 steps in a row, is below 0.5 at any of the rates (chance is log 10 = 2.3).
The verdict is right if "well shaped" goes with reaching it, and any other with not.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record
from sklearn.datasets import load_digits

import tatnet

STEPS, BATCH, WINDOW, LOSS = 200, 128, 20, 0.5
RATES = (3e-4, 1e-3, 3e-3)


@dataclasses.dataclass(frozen=True)
class Case:
  """A network.

  Attributes:
    activation: a name, or a record.
    method: with which it is shaped; None to leave it as it is.
    depth: number of nonlinear layers.
    width: units of each.
    shortcut_weight: 0 for no shortcuts.
  """

  activation: str | tatnet.TransformedActivation
  method: object | None
  depth: int
  width: int
  shortcut_weight: float = 0.0

  def network(self) -> tatnet.nets.Network:
    """The network with its activation."""
    activation = self.activation
    if self.method is None and isinstance(activation, str):
      activation = tatnet.TransformedActivation(activation)
    sizes = {"depth": self.depth, "width": self.width, "shortcut_weight": self.shortcut_weight}
    return tatnet.nets.create("mlp", 10, activation=activation, method=self.method, **sizes)

  def __str__(self):
    name = getattr(self.activation, "name", self.activation)
    scale = getattr(self.activation, "weight_scale", None)
    how = type(self.method).__name__ if self.method else "as it is"
    how = f"with weights x {scale:g}" if scale else how
    shortcut = f", shortcuts {self.shortcut_weight:g}" if self.shortcut_weight else ""
    return f"{name} {how}, {self.depth} x {self.width}{shortcut}"


CASES = (
  Case("leaky_relu", tatnet.TAT(0.9), 50, 128),
  Case("leaky_relu", tatnet.TAT(0.9), 50, 64, shortcut_weight=0.8),
  Case("tanh", tatnet.DKS(), 50, 128),
  Case("gelu", tatnet.TAT(), 50, 128),
  Case("relu", tatnet.EOC(), 10, 128),
  Case("tanh", None, 20, 128),
  Case("relu", tatnet.EOC(), 100, 128),
  Case("relu", None, 30, 128),
  Case("softplus", None, 20, 128),
  Case(tatnet.TransformedActivation("tanh", weight_scale=2.5), None, 30, 128),
  Case("leaky_relu", tatnet.TAT(0.9), 50, 32),
  Case("tanh", tatnet.DKS(), 100, 32),
)


def digits() -> tuple[np.ndarray, np.ndarray]:
  """Images of q = 1, shape [1797, 64], and labels."""
  images, labels = load_digits(return_X_y=True)
  images -= images.mean(0)
  images /= np.sqrt(np.mean(images**2, axis=1, keepdims=True))
  return images.astype(np.float32), labels


def report_of(network: tatnet.nets.Network, images: np.ndarray) -> tatnet.diagnostics.KernelReport:
  """The kernel report of a network."""
  return tatnet.diagnostics.kernel_report(
    network.forward, jnp.asarray(images[:32]), activation=network.activation, seeds=3
  )


def losses_of(network: tatnet.nets.Network, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Training losses by step, shape [rates, steps]."""
  order = np.random.default_rng(0)
  batches = np.concatenate([order.permutation(len(images)) for _ in range(STEPS)])
  batches = batches[: STEPS * BATCH].reshape(STEPS, BATCH)
  adam = optax.scale_by_adam()
  start, _ = network.initialize(jax.random.key(0), jnp.asarray(images[:BATCH]))

  def loss_of(params, x, y):
    logits, _ = network.apply(params, {}, None, x, is_training=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, rate, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
    updates, state = adam.update(gradients, state)
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    return params, state, loss

  found = []
  for rate in RATES:
    params, state = jax.tree.map(jnp.copy, start), adam.init(start)
    found.append([])
    for take in batches:
      params, state, loss = step(params, state, rate, images[take], labels[take])
      found[-1].append(float(loss))
  return np.array(found)


def lowest_mean(losses: np.ndarray) -> float:
  """Lowest mean of a window of steps; infinite if there is none of finite numbers."""
  means = np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")
  return float(np.min(means[np.isfinite(means)], initial=np.inf))


def main():
  """Looks at every network, trains it, prints the table and writes JSON."""
  args = record.arguments("verdicts", __doc__).parse_args()
  images, labels = digits()
  rows = []
  print(
    f"{'network':40} {'verdict':26} {'lowest loss':>11} {'rate':>6} {'reached':>7} {'right':>5}"
  )
  for case in CASES:
    network = case.network()
    start = time.perf_counter()
    report = report_of(network, images)
    seconds_to_report = time.perf_counter() - start
    start = time.perf_counter()
    lowest = [lowest_mean(losses) for losses in losses_of(network, images, labels)]
    best = int(np.argmin(lowest))
    row = {
      "network": str(case),
      "verdict": report.verdict.value,
      "findings": [str(finding) for finding in report.findings],
      "lowest_losses": lowest,
      "rate": RATES[best],
      "reached": lowest[best] < LOSS,
      "right": (not report.findings) == (lowest[best] < LOSS),
      "seconds_to_report": seconds_to_report,
      "seconds_to_train": time.perf_counter() - start,
    }
    rows.append(row)
    print(
      f"{row['network']:40} {row['verdict']:26} {lowest[best]:11.3f} {row['rate']:6g}"
      f" {row['reached']!s:>7} {row['right']!s:>5}",
      flush=True,
    )
  print(f"The verdict is right for {sum(row['right'] for row in rows)} of {len(rows)} networks.")
  settings = {"rates": RATES, "steps": STEPS, "batch": BATCH, "window": WINDOW, "loss": LOSS}
  record.write(args.out, rows, settings=settings)


if __name__ == "__main__":
  main()
