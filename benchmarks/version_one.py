"""What the maps leave out of a ResNet of version 1 with shortcuts.

    python benchmarks/version_one.py [--depths 18 50] [--units 400000]

Its activation reads w x + sqrt(1 - w^2) branch(x), where x is what the activation before put
out: not Gaussian, and with a mean. In infinitely wide networks the units are independent, so
pairs of values of single units, for two orthogonal inputs, are drawn from the law that they have
from block to block. Printed are their q and cosine at the output beside the prediction of the
C maps, which take the sum as Gaussian.
"""

import math

import numpy as np
import record

import tatnet
from tatnet.nets.resnet import BLOCKS

METHODS = (
  ("leaky_relu", tatnet.TAT(0.8)),
  ("tanh", tatnet.DKS()),
  ("gelu", tatnet.TAT()),
)
WEIGHTS = (0.5, 0.8)


class Units:
  """Draws values of units.

  Args:
    activation: of all layers.
    units: how many are drawn.
  """

  def __init__(self, activation: tatnet.TransformedActivation, units: int):
    self.activation, self.units = activation, units
    self.rng = np.random.default_rng(0)

  def behind_weights(self, kernel):
    """Values of units of a layer whose inputs have this kernel, shape [2, units]."""
    root = np.linalg.cholesky(kernel + 1e-12 * np.eye(2))
    return root @ self.rng.standard_normal((2, self.units))

  def activated(self, values):
    """What the activation makes of values, and the kernel of that."""
    x = np.asarray(self.activation(np.asarray(values, np.float32)), np.float64)
    return x, x @ x.T / self.units

  def network(self, depth: int, weight: float) -> tuple[float, float]:
    """q and cosine at the last activation's output, of inputs with cosine 0."""
    layers = 2 if depth < 50 else 3
    x, kernel = self.activated(self.behind_weights(np.eye(2)))
    for stage, blocks in enumerate(BLOCKS[depth]):
      for block in range(blocks):
        inner = kernel
        for _ in range(layers - 1):
          _, inner = self.activated(self.behind_weights(inner))
        has_weights = block == 0 and (stage > 0 or layers == 3)
        shortcut = self.behind_weights(kernel) if has_weights else x
        branch = self.behind_weights(inner)
        x, kernel = self.activated(weight * shortcut + math.sqrt(1 - weight**2) * branch)
    return kernel[0, 0], kernel[0, 1] / math.sqrt(kernel[0, 0] * kernel[1, 1])


def main():
  """Prints the table, writes JSON."""
  parser = record.arguments("version_one", __doc__)
  parser.add_argument("--depths", type=int, nargs="+", default=[18, 50, 101], choices=BLOCKS)
  parser.add_argument("--units", type=int, default=400_000)
  args = parser.parse_args()
  rows = []
  print(f"{'depth':>5} {'w':>4} {'activation':>10} {'method':22} {'q':>6} {'c':>6} {'maps':>6}")
  for depth in args.depths:
    for weight in WEIGHTS:
      topology = tatnet.nets.ResNet.topology(depth, version=1, shortcut_weight=weight)
      for name, method in METHODS:
        try:
          activation = tatnet.transform_activation(name, topology, method)
        except ValueError:  # out of reach
          continue
        q, c = Units(activation, args.units).network(depth, weight)
        maps = float(tatnet.cmap(topology, activation, 0.0))
        print(f"{depth:5} {weight:4} {name:>10} {method!s:22} {q:6.2f} {c:6.3f} {maps:6.3f}")
        rows.append(
          {"depth": depth, "weight": weight, "name": name, "q": q, "c": c, "predicted": maps}
        )
  record.write(args.out, rows, units=args.units)


if __name__ == "__main__":
  main()
