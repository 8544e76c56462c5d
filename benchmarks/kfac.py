"""K-FAC against SGD: step time, first step, memory of the state, and progress on digits.

    python benchmarks/kfac.py [--quick]

Steps of K-FAC and of SGD with momentum alternate in one process, so that their
ratio does not depend on what else the machine does; K-FAC also with factors every two and
ten steps, with factors of an eighth of the batch, and finding its own rates. First steps,
compilation included, are measured in fresh processes. Budgets, for JAX 0.12: a 50-layer
MLP of 256 units whose layers are not stacked, inverses every 10 steps, at most 3.4 times the
SGD step at batch 128, and 1.9 times at batch 1024 with factors every two; its first step
at most 4 s; the step that finds its own rates at most 1.6 times the other.
"""

import statistics
import time

import record

# Which K-FAC against SGD, by batch.
BUDGETS = {128: ("kfac", 3.4), 1024: ("kfac, factors every 2", 1.9)}
FIRST_STEP_BUDGET, ADAPTIVE_BUDGET = 4.0, 1.6
DEPTHS = (10, 50, 200, 1000)


def problem(depth: int, batch: int, stacked: bool = False):
  """An MLP of 256 units, its parameters, and a batch of noise with labels."""
  import jax
  import jax.numpy as jnp

  import tatnet

  name = "tanh" if depth < 13 else "leaky_relu"  # TAT(0.9) needs 13 layers of ReLU
  network = tatnet.nets.create("mlp", 10, width=256, depth=depth, activation=name, stacked=stacked)
  x = jax.random.normal(jax.random.key(1), (batch, 64))
  y = jax.random.randint(jax.random.key(2), (batch,), 0, 10)
  params, _ = network.initialize(jax.random.key(0), jnp.zeros((batch, 64)))
  return network, jax.block_until_ready(params), x, y


class KfacStep:
  """A compiled step of K-FAC, inverses every 10 steps."""

  def __init__(
    self,
    network,
    params,
    x,
    y,
    *,
    factors_every: int = 1,
    part: int | None = None,
    adaptive: bool = False,
    compiled=True,
  ):
    import jax
    import optax

    import tatnet

    evaluate = tatnet.value_grad_and_factors(network, tatnet.optim.SoftmaxCrossEntropy())
    common = {"inverse_every": 10, "factors_every": factors_every, "burn_in": 0}
    fixed = {"learning_rate": 1e-5, "damping": 1e-2}
    optimizer = (tatnet.adaptive_kfac if adaptive else tatnet.kfac)(
      **common, **({} if adaptive else fixed)
    )

    def step(params, state, key):
      refresh = tatnet.optim.factors_due(state) if factors_every > 1 else part is None
      result = evaluate(params, x, y, key=key, refresh=refresh)
      factors = result.factors
      if part is not None:
        factors = evaluate(params, x[:part], y[:part], key=key).factors
      model = {"model": result.model} if adaptive else {}
      updates, state = optimizer.update(result.gradients, state, params, factors=factors, **model)
      return optax.apply_updates(params, updates), state

    self.params, self.state = params, jax.jit(optimizer.init)(params)
    self.key = jax.random.key(0)
    self.step = jax.jit(step, donate_argnums=(1,))
    if compiled:
      self()

  def __call__(self) -> float:
    import jax

    start = time.perf_counter()
    self.params, self.state = jax.block_until_ready(self.step(self.params, self.state, self.key))
    return time.perf_counter() - start


class SgdStep:
  """A compiled step of SGD with momentum."""

  def __init__(self, network, params, x, y):
    import jax
    import optax

    optimizer = optax.sgd(1e-5, momentum=0.9)

    def loss(params):
      logits, _ = network.apply(params, {}, None, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(params, state):
      updates, state = optimizer.update(jax.grad(loss)(params), state)
      return optax.apply_updates(params, updates), state

    self.params, self.state = params, optimizer.init(params)
    self.step = jax.jit(step)
    self()

  def __call__(self) -> float:
    import jax

    start = time.perf_counter()
    self.params, self.state = jax.block_until_ready(self.step(self.params, self.state))
    return time.perf_counter() - start


def compare(batch: int, repeats: int) -> dict:
  """Ratio of step times over whole periods of ten steps, so that inversions count."""
  network, params, x, y = problem(50, batch)
  steps = {
    "sgd": SgdStep(network, params, x, y),
    "kfac": KfacStep(network, params, x, y),
    "kfac, factors every 2": KfacStep(network, params, x, y, factors_every=2),
    "kfac, factors every 10": KfacStep(network, params, x, y, factors_every=10),
    "adaptive_kfac": KfacStep(network, params, x, y, adaptive=True),
    "kfac, factors of an eighth": KfacStep(network, params, x, y, part=batch // 8),
  }
  for _ in range(9):  # to the start of a period
    for name in steps:
      if name != "sgd":
        steps[name]()
  periods = {name: [] for name in steps}
  for _ in range(repeats):
    seconds = dict.fromkeys(steps, 0.0)
    for _ in range(10):
      for name, step in steps.items():
        seconds[name] += step()
    for name, total in seconds.items():
      periods[name].append(total / 10)
  ratios = {
    name: statistics.median(a / b for a, b in zip(periods[name], periods["sgd"], strict=True))
    for name in steps
  }
  return {"batch": batch, "seconds": periods, "ratios": ratios}


def first_step(depth: int, stacked: bool) -> dict:
  """First step and memory of the state, in this process."""
  import jax

  network, params, x, y = problem(depth, 128, stacked)
  start = time.perf_counter()
  step = KfacStep(network, params, x, y, compiled=False)
  step()
  seconds = time.perf_counter() - start
  weights = sum(leaf.size for leaf in jax.tree.leaves(params))
  floats = sum(leaf.size for leaf in jax.tree.leaves(step.state[0].curvature))
  return {
    "depth": depth,
    "stacked": stacked,
    "seconds": seconds,
    "weights": weights,
    "floats": floats,
  }


def state_of_resnet50() -> int:
  """Floats of curvature that the vanilla ResNet-50 needs, without allocating them."""
  import jax
  import jax.numpy as jnp

  import tatnet

  network = tatnet.nets.create("resnet50", 1000)
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), images)
  state = jax.eval_shape(tatnet.kfac(1e-3).init, params)
  return sum(leaf.size for leaf in jax.tree.leaves(state[0].curvature))


def fresh(expression: str):
  """One of this file's measurements, in a fresh process."""
  return record.in_fresh_process(f"import json, kfac; print(json.dumps(kfac.{expression}))")


def main():
  """Measures, prints tables, writes JSON."""
  parser = record.arguments("kfac", __doc__)
  parser.add_argument("--repeats", type=int, default=5, help="periods of ten steps")
  parser.add_argument("--quick", action="store_true", help="depths 10 and 50 only")
  args = parser.parse_args()
  rows, verdicts = {"steps": [], "first": []}, []
  print("50 layers of 256, inverses every 10 steps")
  for batch in (128, 1024):
    row = fresh(f"compare({batch}, {args.repeats})")
    rows["steps"].append(row)
    for name, ratio in row["ratios"].items():
      seconds = statistics.median(row["seconds"][name])
      print(f"  batch {batch:5} {name:26} {1e3 * seconds:7.1f} ms  {ratio:5.2f} x SGD")
    which, budget = BUDGETS[batch]
    verdicts.append(
      record.verdict(f"{which}, step at batch {batch}, times SGD's", row["ratios"][which], budget)
    )
  ratios = rows["steps"][0]["ratios"]
  ratio = ratios["adaptive_kfac"] / ratios["kfac"]
  verdicts.append(record.verdict("adaptive_kfac, times kfac's step", ratio, ADAPTIVE_BUDGET))
  print("First step, compilation included, and state, in fresh processes")
  for depth, stacked in [
    (50, False),
    *((depth, True) for depth in DEPTHS[: 2 if args.quick else 4]),
  ]:
    runs = [fresh(f"first_step({depth}, {stacked})") for _ in range(3)]
    seconds = statistics.median(run["seconds"] for run in runs)
    rows["first"].append({**runs[0], "seconds": [run["seconds"] for run in runs]})
    print(
      f"  depth {depth:5}{', stacked' if stacked else '':9} {seconds:6.2f} s"
      f"  {runs[0]['floats'] / 1e6:7.1f} M floats for {runs[0]['weights'] / 1e6:.1f} M weights"
    )
    if not stacked:
      verdicts.append(record.verdict("first step of 50 layers, s", seconds, FIRST_STEP_BUDGET))
  rows["resnet50_floats"] = fresh("state_of_resnet50()")
  print(f"  vanilla ResNet-50: {rows['resnet50_floats'] / 1e6:.0f} M floats (kfac-jax: 294 M)")
  record.write(args.out, rows, verdicts)


if __name__ == "__main__":
  main()
