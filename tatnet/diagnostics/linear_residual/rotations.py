"""Roots of rotation matrices."""

import numpy as np


def rotation_root(rotation: np.ndarray, order: int) -> np.ndarray:
  r"""The real root of a rotation that turns every plane by its angle over `order`.

  Eigenvalues :math:`e^{\pm i \theta}`, with :math:`|\theta| \le \pi`, become
  :math:`e^{\pm i \theta / q}`. Planes with angles near :math:`\pi` are told apart from the
  others at a gap between angles. Turned by :math:`\pi`, they too have a
  well-conditioned Cayley transform, and no branch of the logarithm is near.

  Args:
    rotation: orthogonal with determinant 1, ``[d, d]`` in float64.
    order: q, at least 1.

  Returns:
    An orthogonal matrix ``[d, d]`` whose q-th power is `rotation`, to within rounding.
  """
  far, near = _split(rotation)
  power, _ = _power(near.T @ rotation @ near, 1 / order)
  root = near @ power @ near.T
  if far.shape[1]:
    power, structure = _power(-far.T @ rotation @ far, 1 / order)
    turn = np.cos(np.pi / order) * np.eye(far.shape[1]) + np.sin(np.pi / order) * structure
    root += far @ power @ turn @ far.T
  return root


def largest_angle(rotation: np.ndarray) -> float:
  r"""The largest angle, in :math:`[0, \pi]`, by which a rotation turns a plane.

  Args:
    rotation: orthogonal, ``[d, d]``.

  Returns:
    The angle in radians, from :math:`2 \sin(\theta / 2) = \|U - I\|`.
  """
  distance = np.linalg.norm(rotation - np.eye(len(rotation)), 2)
  return float(2 * np.arcsin(min(distance / 2, 1.0)))


def _split(rotation):
  """Orthonormal bases of the planes with angles near pi, and of the rest.

  Both members of a pair of eigenvalues have the same cosine, so that the widest of
  the gaps around a right angle separates no pair.
  """
  cosines, basis = np.linalg.eigh((rotation + rotation.T) / 2)
  inner = cosines[np.abs(cosines) < 0.4]
  edges = np.concatenate([[-0.4], inner, [0.4]])
  widest = np.argmax(np.diff(edges))
  count = np.searchsorted(cosines, edges[widest : widest + 2].mean())
  return basis[:, :count], basis[:, count:]


def _power(rotation, exponent):
  """A power of a rotation by less than a half turn, and a complex structure opposed to it.

  The structure J is orthogonal and antisymmetric, commutes with the rotation, and turns each
  plane by a right angle in the sense opposite to the rotation's.
  """
  identity = np.eye(len(rotation))
  cayley = np.linalg.solve(identity + rotation, identity - rotation)
  tangents, vectors = np.linalg.eigh(0.5j * (cayley - cayley.T))  # of half the angles
  angles = 2 * np.arctan(tangents)
  power = ((vectors * np.exp(1j * exponent * angles)) @ vectors.conj().T).real
  return power, _structure(angles, vectors)


def _structure(angles, vectors):
  """Sum over planes of a right-angled turn against the rotation's."""
  half = len(angles) // 2
  # Eigenvalues ascend: the first pairs with the last.
  turning = int(np.sum(angles[: -half - 1 : -1] - angles[:half] > 1e-13)) if half else 0
  ahead = vectors[:, len(angles) - turning :]
  behind = vectors[:, :turning]
  structure = (1j * (behind @ behind.conj().T - ahead @ ahead.conj().T)).real
  resting = vectors[:, turning : len(angles) - turning]
  if resting.shape[1] > 1:  # any pairs will do where nothing turns
    _, basis = np.linalg.eigh((resting @ resting.conj().T).real)
    first, second = np.split(basis[:, -2 * (resting.shape[1] // 2) :], 2, axis=1)
    structure += first @ second.T - second @ first.T
  left, _, right = np.linalg.svd(structure)
  return left @ right
