"""A battery of small models, to hold what `trace` says against the networks that run."""

from battery import (
  constants,
  convolutional,
  dense,
  fields,
  functions,
  gates,
  grouped,
  heads,
  inputs,
  noise,
  norms,
  parameters,
  programs,
  residual,
  statistics,
  tokens,
)

MODELS = [
  model
  for part in (
    dense, convolutional, grouped, residual, norms, noise, tokens, gates, constants, functions, fields,
    heads, inputs, programs, parameters, statistics,
  )
  for model in part.MODELS
]  # fmt: skip
