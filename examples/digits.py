"""Trains a 100-layer MLP without shortcuts or normalisation on handwritten digits.

The same network twice: shaped by TAT, and with a ReLU at the edge of chaos (He
initialisation) for contrast. Prints both test accuracies and draws the curves.

    python examples/digits.py
    python examples/digits.py --depth 50 --steps 300 --seed 1
"""

import argparse
import pathlib

import haiku as hk
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits

import tatnet


def load_data(seed: int):
  """Train and test images [n, 64], standardised, and labels; 1437 and 360 examples."""
  images, labels = load_digits(return_X_y=True)
  images = ((images - images.mean()) / images.std()).astype(np.float32)
  order = np.random.default_rng(seed).permutation(len(images))
  train, test = order[:1437], order[1437:]
  return (images[train], labels[train]), (images[test], labels[test])


def build(depth: int, width: int, activation: tatnet.TransformedActivation):
  """An MLP with `depth` nonlinear layers; the repeated ones are stacked and compile once."""
  w_init = tatnet.ScaledUniformOrthogonal()

  def layer(x):
    return activation(hk.Linear(width, w_init=w_init)(x))

  def forward(images):
    x = tatnet.per_location_normalize(images)
    x = layer(x)
    x = hk.experimental.layer_stack(depth - 1)(layer)(x)
    return hk.Linear(10, w_init=w_init)(x)

  return hk.without_apply_rng(hk.transform(forward))


def train(network, train_data, test_data, *, steps, batch_size, learning_rate, seed):
  """Adam for some steps; returns the loss at each and the final test accuracy."""
  images, labels = train_data
  optimizer = optax.adam(learning_rate)
  params = jax.jit(network.init)(jax.random.key(seed), images[:1])
  state = optimizer.init(params)

  def loss_fn(params, images, labels):
    logits = network.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @jax.jit
  def step(params, state, images, labels):
    loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  rng, losses = np.random.default_rng(seed), []
  for _ in range(steps):
    batch = rng.choice(len(images), batch_size, replace=False)
    params, state, loss = step(params, state, images[batch], labels[batch])
    losses.append(loss)
  predicted = jnp.argmax(network.apply(params, test_data[0]), axis=-1)
  return np.array(losses), float(jnp.mean(predicted == test_data[1]))


def plot(curves: dict[str, np.ndarray], path: pathlib.Path):
  """Training loss against step, one curve per network."""
  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
  for label, losses in curves.items():
    axes.plot(losses, label=label)
  axes.set(xlabel="step", ylabel="training loss", yscale="log")
  axes.legend()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)


def main():
  """Trains both networks and reports."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--depth", type=int, default=100, help="nonlinear layers")
  parser.add_argument("--width", type=int, default=256)
  parser.add_argument("--steps", type=int, default=150)
  parser.add_argument("--batch-size", type=int, default=128)
  parser.add_argument("--learning-rate", type=float, default=1e-4)
  parser.add_argument("--eta", type=float, default=0.9, help="TAT's target cosine")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--plot", type=pathlib.Path, default=pathlib.Path("runs/digits.png"))
  args = parser.parse_args()

  topology = tatnet.chain(args.depth)
  train_data, test_data = load_data(args.seed)
  curves = {}
  for name, method, label in (
    ("leaky_relu", tatnet.TAT(args.eta), "TAT"),
    ("relu", tatnet.EOC(), "EOC"),
  ):
    activation = tatnet.transform_activation(name, topology, method)
    print(f"{label}: {activation}")
    losses, accuracy = train(
      build(args.depth, args.width, activation),
      train_data,
      test_data,
      steps=args.steps,
      batch_size=args.batch_size,
      learning_rate=args.learning_rate,
      seed=args.seed,
    )
    curves[f"{label}, test accuracy {accuracy:.1%}"] = losses
    print(f"  {args.depth} layers, {args.steps} steps: test accuracy {accuracy:.1%}")
  plot(curves, args.plot)
  print(f"Curves: {args.plot}")


if __name__ == "__main__":
  main()
