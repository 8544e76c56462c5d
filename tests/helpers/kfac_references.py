"""Factors and updates of K-FAC by definition: loops over patches, dense matrices, in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from tatnet import optim

# Compiling is most of what these tests do.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def same_padding(space, size, stride, dilation):
  """TensorFlow's SAME: ``ceil(n / stride)`` outputs, the odd zero comes last."""
  pairs = []
  for n, k, s, d in zip(space, size, stride, dilation, strict=True):
    missing = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
    pairs.append((missing // 2, missing - missing // 2))
  return tuple(pairs)


def patches_of(x, size, stride, dilation, padding):
  """Explicit patches ``[batch, locations, prod(size) * channels]``, one location at a time."""
  x = np.pad(x, [(0, 0), *((max(a, 0), max(b, 0)) for a, b in padding), (0, 0)])
  for axis, (before, after) in enumerate(padding, start=1):
    kept = range(max(-before, 0), x.shape[axis] - max(-after, 0))
    x = np.take(x, list(kept), axis)
  starts = [
    range(0, n - (k - 1) * d, s)
    for n, k, s, d in zip(x.shape[1:-1], size, stride, dilation, strict=True)
  ]
  patches = []
  for start in itertools.product(*starts):
    taps = itertools.product(*map(range, size))
    places = [
      tuple(a + t * d for a, t, d in zip(start, tap, dilation, strict=True)) for tap in taps
    ]
    patches.append(np.concatenate([x[(slice(None), *place)] for place in places], axis=-1))
  return np.stack(patches, axis=1)


def inputs_factor(x, sharing="reduce", with_bias=True):
  """Second moment of inputs ``[batch, locations, inputs]``, with a 1 for the bias."""
  if with_bias:
    x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=-1)
  if sharing == "reduce":
    x = x.mean(axis=1, keepdims=True)
  return np.einsum("bti,btj->ij", x, x) / len(x)


def outputs_factor(g, sharing="reduce"):
  """Second moment of gradients ``[batch, locations, outputs]``."""
  if sharing == "reduce":
    g = g.sum(axis=1, keepdims=True)
  return np.einsum("bti,btj->ij", g, g) / (g.shape[0] * g.shape[1])


def kronecker_update(gradient, a, g, damping):
  """Gradient ``[inputs, outputs]`` times the inverse of the damped Kronecker product, dense."""
  gradient, a, g = (np.asarray(array, float) for array in (gradient, a, g))
  pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g)))
  a = a + pi * np.sqrt(damping) * np.eye(len(a))
  g = g + np.sqrt(damping) / pi * np.eye(len(g))
  return (np.linalg.inv(np.kron(a, g)) @ gradient.reshape(-1)).reshape(gradient.shape)


def random_factors(params, rng, batch=7):
  """Factors of the layers, second moments of noise; those of scales and offsets are squares."""
  layers = {}
  for name, arrays in params.items():
    if "w" in arrays:
      *window, inputs, outputs = arrays["w"].shape
      sizes = {"inputs": int(np.prod(window)) * inputs + ("b" in arrays), "outputs": outputs}
      rows = {side: rng.normal(size=(batch, size)) for side, size in sizes.items()}
      layers[name] = {side: r.T @ r / batch for side, r in rows.items()}
    else:
      layers[name] = {key: rng.normal(size=a.shape) ** 2 for key, a in arrays.items()}
  dtype = jax.tree.leaves(params)[0].dtype
  layers = jax.tree.map(lambda f: jnp.asarray(f, dtype), layers)
  return optim.Factors(jnp.ones(()), layers)


def random_like(params, rng):
  """Noise of the shapes and dtypes of the parameters."""
  return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


def as_matrix(layer):
  """Weight over bias, ``[inputs + 1, outputs]``, of a layer's arrays."""
  rows = [np.asarray(layer["w"]).reshape(-1, layer["w"].shape[-1])]
  if "b" in layer:
    rows.append(np.asarray(layer["b"])[None])
  return np.concatenate(rows)


def mlp_params(sizes, seed=0):
  """Parameters ``{layer: {"w", "b"}}`` with biases that are not zero."""
  rng = np.random.default_rng(seed)
  params = {}
  for i, (m, n) in enumerate(itertools.pairwise(sizes)):
    w, b = rng.normal(size=(m, n)) / np.sqrt(m), rng.normal(size=n) / 2
    params[f"layer_{i}"] = {"w": jnp.asarray(w), "b": jnp.asarray(b)}
  return params


def mlp(params, x, shifts=None):
  """Outputs of a tanh MLP for one example or many; shifts are added to preactivations."""
  for i, (name, layer) in enumerate(params.items()):
    x = (jnp.tanh(x) if i else x) @ layer["w"] + layer["b"]
    x = x if shifts is None else x + shifts[name]
  return x


def mlp_inputs(params, x):
  """What every layer of `mlp` sees, ``[batch, 1, inputs]``."""
  seen = {}
  for i, (name, layer) in enumerate(params.items()):
    x = np.tanh(x) if i else np.asarray(x)
    seen[name] = x[:, None]
    x = x @ np.asarray(layer["w"]) + np.asarray(layer["b"])
  return seen


def tapped_mlp(params, taps, observer, x):
  """The same with taps, as `value_grad_and_factors` takes it."""
  for i, (name, layer) in enumerate(params.items()):
    x = observer.dense(jnp.tanh(x) if i else x, layer["w"], layer["b"], taps[name])
  return x


def shifts_like(params):
  """Zeros to be added to the preactivations of every layer."""
  return {name: jnp.zeros_like(layer["b"]) for name, layer in params.items()}


def output_jacobians(params, x):
  """Jacobians ``[batch, outputs, units]`` of the outputs by every layer's preactivations."""
  of_one = jax.jacrev(lambda shifts, x: mlp(params, x, shifts))
  return quick_jit(jax.vmap(of_one, in_axes=(None, 0)))(shifts_like(params), x)


def random_params(network, *inputs, seed=0, **kwargs):
  """Parameters (and state, where there is one) of a Haiku model, drawn by NumPy: it compiles nothing."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, **kwargs))

  def draw(leaf):
    scale = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.5
    return jnp.asarray(rng.normal(0.2, scale, leaf.shape), leaf.dtype)

  if not isinstance(shapes, tuple):
    return jax.tree.map(draw, shapes)
  params, state = shapes
  return jax.tree.map(draw, params), jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), state)
