"""Text that a trained decoder writes, character by character."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

import tatnet
from tatnet.training import data

PROMPT = "def "
LENGTH, TEMPERATURE = 400, 0.6


def sample(network: tatnet.nets.Network, params: Any, seed: int, prompt: str = PROMPT) -> str:
  """The prompt, and what follows it.

  Where the network's context is full, its latter half is the prompt of what follows.

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
  def written(params, tokens, length, key):
    logits, caches = apply(params, tokens, None)

    def character(carry, key):
      logits, caches = carry
      drawn = jax.random.categorical(key, logits[:, -1] / TEMPERATURE)
      return apply(params, drawn[:, None], caches), drawn

    keys = jax.random.split(key, length)
    return jax.lax.scan(character, (logits[:, -1:], caches), keys)[1]

  text, read = prompt, prompt
  for key in jax.random.split(jax.random.key(seed), LENGTH):
    tokens = jnp.asarray(data.encode_text(read)[None], jnp.int32)
    drawn = written(params, tokens, context - len(read), key)
    text += data.decode_text(jax.device_get(drawn)[:, 0])
    if len(text) >= LENGTH:
      break
    read = text[-max(1, context // 2) :]
  return text[:LENGTH]
