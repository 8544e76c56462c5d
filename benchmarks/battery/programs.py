"""The same layers in other spellings: loops, maps, meshes, custom rules, precision."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from battery import models
from battery.initial import WIDTH, gaussian, squares
from battery.models import TANH
from battery.signals import Inputs, signals

HIDDEN, WORDS = signals(WIDTH), signals(4, WIDTH)
LAYERS = 5


def stack(key, width=WIDTH):
  return jnp.stack(squares(LAYERS, width)(key)["w"])


def by_fori_loop(kernels, x, activation):
  return jax.lax.fori_loop(0, LAYERS, lambda i, x: activation(x @ kernels[i]), x)


def by_scan_of_two(kernels, x, activation):
  """A carry of two streams, each of which reads the other."""

  def step(carry, w):
    a, b = carry
    return (b, 0.6 * a + 0.8 * activation(b) @ w), None

  (a, b), _ = jax.lax.scan(step, (x @ kernels[0], x @ kernels[1]), kernels[2:])
  return jnp.concatenate([a, b], -1)


def by_scan_with_outputs(kernels, x, activation):
  """All layers' outputs are kept; the last is used."""

  def step(x, w):
    y = activation(x @ w)
    return y, y

  _, outputs = jax.lax.scan(step, x, kernels)
  return outputs[-1]


def by_scan_in_pairs(kernels, x, activation):
  """A step that unrolls two layers."""

  def step(x, pair):
    return activation(activation(x @ pair[0]) @ pair[1]), None

  return jax.lax.scan(step, x, kernels[:4].reshape(2, 2, WIDTH, WIDTH))[0]


def by_map(kernels, x, activation):
  """Location by location."""

  def one(x):
    for w in kernels:
      x = activation(x @ w)
    return x

  return jnp.swapaxes(jax.lax.map(one, jnp.swapaxes(x, 0, 1)), 0, 1)


def by_vmap(kernels, x, activation):
  def one(x):
    for w in kernels:
      x = activation(w.T @ x)
    return x

  return jax.vmap(jax.vmap(one))(x)


def by_einsum_of_heads(params, x, activation):
  """Heads of 64 features each: [d, h, k] kernels in, [h, k, d] out."""
  for into, out in params:
    h = activation(jnp.einsum("bd,dhk->bhk", x, into))
    x = activation(jnp.einsum("bhk,hkd->bd", h, out))
  return x


def heads_start(key):
  def block(key):
    first, second = jax.random.split(key)
    into = gaussian(first, (WIDTH, WIDTH)).reshape(WIDTH, 4, -1)
    return into, gaussian(second, (WIDTH, WIDTH)).reshape(4, -1, WIDTH)

  return [block(key) for key in jax.random.split(key, 2)]


def in_parts(kernels, x, activation):
  """One large kernel, cut into those of the layers; and merged products."""
  both = x @ jnp.concatenate([kernels[0], kernels[1]], axis=1)
  a, b = jnp.split(both, 2, axis=-1)
  return activation(0.6 * activation(a) @ kernels[2] + 0.8 * activation(b) @ kernels[3])


def by_general_product(kernels, x, activation):
  for w in kernels:
    x = jax.lax.dot_general(w, x, (((0,), (1,)), ((), ()))).T
    x = activation(x)
  return x


@jax.custom_vjp
def clipped(x):
  return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))


def gradients_clipped(kernels, x, activation):
  """An identity with a backward pass of its own after each layer."""
  for w in kernels:
    x = clipped(activation(x @ w))
  return x


def stopped(kernels, x, activation):
  for w in kernels[:2]:
    x = activation(x @ jax.lax.stop_gradient(w))
  x = jax.lax.stop_gradient(x)
  for w in kernels[2:]:
    x = activation(x @ w)
  return x


@functools.partial(jax.checkpoint, static_argnums=2)
def block(x, w, activation):
  return activation(x @ w)


def checkpointed(kernels, x, activation):
  for w in kernels:
    x = block(x, w, activation)
  return x


def jitted(kernels, x, activation):
  layer = jax.jit(lambda x, w: activation(x @ w))
  for w in kernels:
    x = layer(x, w)
  return x


def chosen_while_tracing(kernels, x, activation):
  """Conditions that are known while tracing."""
  for i, w in enumerate(kernels):
    y = activation(x @ w)
    x = jax.lax.cond(i % 2 == 0, lambda y=y: y, lambda y=y: -y)
  return x


def half(kernels, x, activation):
  """Products in bfloat16, summed up in float32."""
  for w in kernels:
    x = jnp.matmul(
      x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )
    x = activation(x)
  return x


def reshaped(kernels, x, activation):
  """Axes split, moved and put back between the layers."""
  for w in kernels:
    y = activation(x @ w).reshape(4, 4, -1, 2)
    x = jnp.moveaxis(y, (2, 3), (1, 2)).reshape(4, -1, 2, 4).transpose(0, 3, 1, 2).reshape(x.shape)
  return x


def on_mesh(kind, tensor):
  mesh = jax.make_mesh((1,), ("d",), axis_types=(kind,))

  def by_data(kernels, x, activation):
    for w in kernels:
      x = activation(x @ w)
    return x

  def by_features(kernels, x, activation):
    """A pair of layers cut along their hidden features, summed over the devices."""
    x = activation(x @ kernels[0])
    return activation(jax.lax.psum(x @ kernels[1], "d"))

  def apply(kernels, x, activation):
    function = by_features if tensor else by_data
    cut = [P(None, "d"), P("d", None)] if tensor else [P()] * len(kernels)
    specs = (cut, P() if tensor else P("d"))
    run = functools.partial(function, activation=activation)
    return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)(
      list(kernels), x
    )

  def put(x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))

  def start(key):
    cuts = [(None, "d"), ("d", None)] if tensor else [()] * LAYERS
    return [put(w, *cut) for w, cut in zip(squares(len(cuts))(key)["w"], cuts, strict=True)]

  x = put(HIDDEN.arrays[0]) if tensor else put(HIDDEN.arrays[0], "d")
  return apply, start, Inputs((x,), HIDDEN.gram)


def plain(name, apply, start=None, inputs=HIDDEN, **options):
  start = start or (lambda key: squares(LAYERS)(key)["w"])
  return models.plain_jax(name, options.pop("kind", "loops"), apply, start, inputs, **options)


def meshes():
  for kind in (AxisType.Explicit, AxisType.Auto):
    for tensor in (False, True):
      apply, start, inputs = on_mesh(kind, tensor)
      name = f"shard_map, {kind.name}, {'features' if tensor else 'data'} cut"
      yield plain(name, apply, start, inputs, given="arrays", kind="meshes", batched=False)


MODELS = [
  plain("fori_loop", by_fori_loop, stack),
  plain("scan of two streams", by_scan_of_two, stack),
  plain("scan with outputs", by_scan_with_outputs, stack),
  plain("scan in pairs", by_scan_in_pairs, stack),
  plain("map over locations", by_map, inputs=WORDS, batched=False),
  plain("vmap of one example", by_vmap, inputs=WORDS, batched=False, activation=TANH),
  plain("heads", by_einsum_of_heads, heads_start, kind="products"),
  plain("merged product", in_parts, kind="products"),
  plain("weights on the left", by_general_product, kind="products"),
  plain("half precision, wide sums", half, kind="half precision"),
  plain("gradients clipped", gradients_clipped, kind="custom rules"),
  plain("gradients stopped", stopped, kind="custom rules"),
  plain("checkpointed", checkpointed, kind="custom rules"),
  plain("jitted layers", jitted, kind="custom rules"),
  plain("conditions known", chosen_while_tracing, kind="custom rules", activation=TANH),
  plain("axes moved", reshaped, kind="products", inputs=WORDS),
  *meshes(),
]
