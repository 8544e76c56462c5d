"""What shortcuts do to the singular values of a network's Jacobian, and to its training.

The experiment of MacDonald et al. (arXiv 2210.05371) on 32 images of MNIST: one
small convolutional network with batch normalisation in three variants,

  (a) without shortcuts,
  (b) with an identity and a convolutional shortcut,
  (c) the same with an average pooling of singular values 1 added to the second one,

trained by gradient descent, one step an epoch, from the same initial parameters and
on the same images in all trials. Before each of the first steps all singular values
of the Jacobian of the two blocks and the classifier are taken, for the whole batch at
once: 320 outputs by 23,040 inputs. Ten trials take a quarter of an hour on one core.

    python examples/skip_jacobians.py --data-dir DATA
    python examples/skip_jacobians.py --data digits --trials 2  # needs no download
"""

import argparse
import json
import pathlib

import haiku as hk
import jax
import numpy as np
import optax
from matplotlib.figure import Figure

from tatnet.diagnostics.jacobians import singular_values
from tatnet.training.data import DataNotPrepared, load_arrays

BATCH, CLASSES = 32, 10
VARIANTS = {
  "(a) no shortcuts": {"shortcuts": False, "pooling": False},
  "(b) convolution": {"shortcuts": True, "pooling": False},
  "(c) pooling + convolution": {"shortcuts": True, "pooling": True},
}


def convolution(x, channels, window, name, **settings):
  """A convolution that starts as in PyTorch: uniform, of variance 1 / (3 inputs)."""
  limit = 1 / np.sqrt(window**2 * x.shape[-1])
  init = hk.initializers.RandomUniform(-limit, limit)
  return hk.Conv2D(channels, window, w_init=init, b_init=init, name=name, **settings)(x)


def normalized(x, name):
  """ReLU of the batch-normalised signal."""
  norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9, name=name)
  return jax.nn.relu(norm(x, is_training=True))


def stem(images):
  """Images [batch, 28, 28, 1] to the signal [batch, 12, 12, 5] that enters the blocks."""
  x = convolution(images, 5, 5, "stem", padding="VALID")
  return hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def blocks_and_classifier(x, shortcuts, pooling):
  """Two residual blocks and the last layer."""
  branch = convolution(normalized(x, "norm_1"), 5, 5, "layer_1")
  branch = convolution(normalized(branch, "norm_2"), 5, 5, "layer_2")
  x = x + branch if shortcuts else branch

  x = normalized(x, "norm_3")
  branch = convolution(x, 20, 3, "layer_3", stride=2, padding=(1, 1))
  branch = convolution(normalized(branch, "norm_4"), 20, 3, "layer_4", padding="VALID")
  if shortcuts:
    branch += convolution(x, 20, 1, "projection", stride=3)
  if pooling:  # its singular values are 1; 15 channels of zeros
    pooled = 3 * hk.avg_pool(x, (1, 3, 3, 1), (1, 3, 3, 1), "VALID")
    branch += jax.numpy.pad(pooled, [(0, 0), (0, 0), (0, 0), (7, 8)])

  x = normalized(hk.Flatten()(branch), "norm_5")
  limit = 1 / np.sqrt(x.shape[-1])
  init = hk.initializers.RandomUniform(-limit, limit)
  return hk.Linear(CLASSES, w_init=init, b_init=init, name="logits")(x)


STEM = hk.without_apply_rng(hk.transform(stem))
REST = hk.without_apply_rng(hk.transform_with_state(blocks_and_classifier))


@jax.jit
def initialize(key, images):
  """Parameters that serve all variants, and the running statistics, which are not used."""
  stem_key, rest_key = jax.random.split(key)
  of_stem = STEM.init(stem_key, images)
  signal = STEM.apply(of_stem, images)
  of_rest, state = REST.init(rest_key, signal, shortcuts=True, pooling=True)
  return {"stem": of_stem, "rest": of_rest}, state


class Variant:
  """One of the networks; its functions are compiled once for all trials."""

  def __init__(self, shortcuts: bool, pooling: bool, learning_rate: float):
    @jax.jit
    def logits(signal, params, state):
      return REST.apply(params["rest"], state, signal, shortcuts=shortcuts, pooling=pooling)[0]

    @jax.jit
    def step(params, state, images, labels):
      def loss_fn(params):
        outputs = logits(STEM.apply(params["stem"], images), params, state)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()

      loss, grads = jax.value_and_grad(loss_fn)(params)
      return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), loss

    self.logits, self.step = logits, step

  def train(self, params, state, images, labels, *, epochs, measured):
    """Gradient descent; the loss at each epoch and the singular values at the first ones."""
    losses, spectra = [], []
    for epoch in range(epochs):
      if epoch < measured:
        signal = STEM.apply(params["stem"], images)
        spectra.append(singular_values(self.logits, signal, params, state))
      params, loss = self.step(params, state, images, labels)
      losses.append(float(loss))
    return np.array(losses), np.array(spectra)


def load_images(name: str, data_dir: pathlib.Path):
  """32 training images [32, 28, 28, 1] in [0, 1] and their labels."""
  images, labels = load_arrays(name, "train", data_dir)
  chosen = np.random.default_rng(0).permutation(len(images))[:BATCH]
  x = (images[chosen] / 255).astype(np.float32)
  return jax.image.resize(x, (BATCH, 28, 28, 1), "linear"), labels[chosen]


def summarize(losses, spectra):
  """Numbers for each variant, means over trials, and in how many trials it beats (a)."""
  rows = {}
  for number, name in enumerate(VARIANTS):
    means = spectra[:, number].mean((1, 2))  # over the measured epochs, for each trial
    smallest = spectra[:, number, :, -1].mean(1)
    rows[name] = {
      "mean_singular_value": [means.mean(), means.std()],
      "mean_at_start": spectra[:, number, 0].mean(),
      "smallest_singular_value": [smallest.mean(), smallest.std()],
      "trials_with_larger_mean": int(np.sum(means > spectra[:, 0].mean((1, 2)))),
      "trials_with_larger_smallest": int(np.sum(smallest > spectra[:, 0, :, -1].mean(1))),
      "losses": losses[:, number].mean(0).tolist(),
      "losses_std": losses[:, number].std(0).tolist(),
      "trials_with_smaller_loss": np.sum(losses[:, number] < losses[:, 0], 0).tolist(),
      "singular_values": spectra[:, number].mean((0, 1)).tolist(),
      "mean_by_epoch": spectra[:, number].mean((0, 2)).tolist(),
      "smallest_by_epoch": spectra[:, number, :, -1].mean(0).tolist(),
    }
  return rows


def show(rows, trials, measured):
  """The table: means over trials, and in how many of them a variant beats (a)."""
  print(f"Singular values of the first {measured} epochs, and how often they exceed those of (a):")
  print(f"{'variant':<26} {'mean':>13} {'of ' + str(trials):>6} {'at start':>9} {'smallest':>10}"
        f" {'of ' + str(trials):>6}")  # fmt: skip
  for name, row in rows.items():
    mean, std = row["mean_singular_value"]
    print(
      f"{name:<26} {mean:>5.2f} +- {std:.2f} {row['trials_with_larger_mean']:>7}"
      f" {row['mean_at_start']:>9.2f} {row['smallest_singular_value'][0]:>10.2f}"
      f" {row['trials_with_larger_smallest']:>6}"
    )
  epochs = [e for e in (0, 1, 2, 5, 10, 19, 29) if e < len(rows[name]["losses"])]
  print("Loss at each epoch, and in how many trials it is below that of (a):")
  print(f"{'variant':<26}" + "".join(f"{epoch:>14}" for epoch in epochs))
  for name, row in rows.items():
    cells = (f"{row['losses'][e]:.3f} ({row['trials_with_smaller_loss'][e]})" for e in epochs)
    print(f"{name:<26}" + "".join(f"{cell:>14}" for cell in cells))


def plot(rows, path, title):
  """Singular values averaged rank by rank, their mean by epoch, and the losses."""
  figure = Figure(figsize=(12, 3.6), layout="constrained")
  left, middle, right = figure.subplots(1, 3)
  for name, row in rows.items():
    values = row["singular_values"]
    left.hist(values, bins=np.linspace(0, 6, 33), histtype="step", linewidth=1.5, label=name)
    (line,) = middle.plot(row["mean_by_epoch"], label=name)
    middle.plot(row["smallest_by_epoch"], "--", color=line.get_color())
    loss, std = np.array(row["losses"]), np.array(row["losses_std"])
    right.plot(loss, label=name)
    right.fill_between(np.arange(len(loss)), loss - std, loss + std, alpha=0.15)
  left.set(xlabel="singular value, mean of its rank", ylabel="number", title=title)
  middle.set(xlabel="epoch", ylabel="singular value", title="mean (solid) and smallest (dashed)")
  right.set(xlabel="epoch", ylabel="training loss", title="mean and deviation over trials")
  right.set(xlim=(0, min(20, len(loss)) - 1), ylim=(0, None))
  right.legend()
  figure.savefig(path, dpi=100)


def main():
  """Runs all trials and reports."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--trials", type=int, default=10, help="initialisations")
  parser.add_argument("--epochs", type=int, default=30)
  parser.add_argument("--measured", type=int, default=10, help="epochs with singular values")
  parser.add_argument("--learning-rate", type=float, default=0.1)
  parser.add_argument("--data", choices=("mnist", "digits"), default="mnist")
  parser.add_argument("--data-dir", type=pathlib.Path, help="the folder that holds mnist/")
  parser.add_argument("--plot", type=pathlib.Path, default=pathlib.Path("runs/skip_jacobians.png"))
  args = parser.parse_args()
  measured = min(args.measured, args.epochs)
  if args.trials < 1 or measured < 1:
    parser.error("expected at least one trial, one epoch and one measured epoch")
  try:
    images, labels = load_images(args.data, args.data_dir)
  except DataNotPrepared as error:
    parser.error(str(error))

  variants = [Variant(**v, learning_rate=args.learning_rate) for v in VARIANTS.values()]
  runs = []
  for trial in range(args.trials):
    start = initialize(jax.random.key(trial), images)
    runs.append(
      [v.train(*start, images, labels, epochs=args.epochs, measured=measured) for v in variants]
    )
  losses = np.array([[loss for loss, _ in of_trial] for of_trial in runs])
  spectra = np.array([[values for _, values in of_trial] for of_trial in runs])

  rows = summarize(losses, spectra)
  title = f"{args.data}, {BATCH} images, {args.trials} trials"
  print(title)
  show(rows, args.trials, measured)
  args.plot.parent.mkdir(parents=True, exist_ok=True)
  plot(rows, args.plot, title)
  report = {"data": args.data, "trials": args.trials, "measured": measured, "variants": rows}
  args.plot.with_suffix(".json").write_text(json.dumps(report, indent=1))
  print(f"Figure and numbers: {args.plot}, {args.plot.with_suffix('.json')}")


if __name__ == "__main__":
  main()
