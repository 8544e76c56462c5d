"""Text that a trained decoder writes, character by character."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

import tatnet
from tatnet.training import data

PROMPT = "def "
TEMPERATURE = 0.7


def sample(network: tatnet.nets.Network, params: Any, seed: int, prompt: str = PROMPT) -> str:
  """The prompt, and what follows it up to the network's context.

  Args:
    network: a decoder from `tatnet.nets.create`.
    params: its parameters.
    seed: of the draws.
    prompt: the beginning, shorter than the context.
  """
  context = network.options["context"]

  def forward(tokens, caches):
    module = network.module(num_classes=network.num_classes, **network.options)
    return module(tokens, caches=module.empty_caches(len(tokens)) if caches is None else caches)

  apply = hk.without_apply_rng(hk.transform(forward)).apply

  @functools.partial(jax.jit, static_argnums=2)
  def written(params, tokens, length):
    logits, caches = apply(params, tokens, None)

    def character(carry, key):
      logits, caches = carry
      drawn = jax.random.categorical(key, logits[:, -1] / TEMPERATURE)
      return apply(params, drawn[:, None], caches), drawn

    keys = jax.random.split(jax.random.key(seed), length)
    return jax.lax.scan(character, (logits[:, -1:], caches), keys)[1]

  tokens = jnp.asarray(data.encode_text(prompt)[None], jnp.int32)
  drawn = written(params, tokens, context - len(prompt))
  return prompt + data.decode_text(jax.device_get(drawn)[:, 0])
