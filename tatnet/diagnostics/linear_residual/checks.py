"""Checks of matrices and factors."""

from typing import Any

import numpy as np


def square_matrix(matrix: Any, function: str) -> np.ndarray:
  array = np.asarray(matrix, np.float64)
  if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
    raise ValueError(f"{function} got a matrix of shape {array.shape}; expected a square one.")
  if not np.isfinite(array).all():
    raise ValueError(f"{function} got a matrix with entries that are not finite; expected numbers.")
  return array


def stacked_factors(factors: Any, function: str) -> np.ndarray:
  array = np.asarray(factors, np.float64)
  if array.ndim != 3 or array.shape[1] != array.shape[2] or not array.size:
    raise ValueError(f"{function} got factors of shape {array.shape}; expected [layers, d, d].")
  return array


def problem(factors, target, covariance, function):
  """Factors, R and Sigma as arrays that fit."""
  stack, matrix = stacked_factors(factors, function), square_matrix(target, function)
  sigma = np.eye(len(matrix)) if covariance is None else square_matrix(covariance, function)
  if not stack.shape[1:] == matrix.shape == sigma.shape:
    raise ValueError(
      f"{function} got factors of shape {stack.shape}, a target of {matrix.shape} and a covariance of"
      f" {sigma.shape}; expected [layers, d, d], [d, d] and [d, d]."
    )
  if not np.allclose(sigma, sigma.T) or np.linalg.eigvalsh(sigma)[0] < -1e-12 * np.abs(sigma).max():
    raise ValueError(
      f"{function} got a covariance that is not symmetric and positive semidefinite; expected"
      " E[x x^T] of the inputs, such as inputs.T @ inputs / len(inputs)."
    )
  return stack, matrix, sigma


def check_layers(function: str, layers: int, gamma: float) -> None:
  if not (layers >= 1 and int(layers) == layers):
    raise ValueError(f"{function} got layers={layers!r}; expected an integer of at least 1.")
  if layers < 3 * gamma:
    raise ValueError(
      f"{function} got {layers} layers for a matrix with gamma={gamma:.6g}, the largest |log| of a"
      f" singular value; expected at least 3 gamma. Use {int(np.ceil(3 * gamma))} layers or more, or"
      " scale the matrix so that its singular values lie around 1."
    )
