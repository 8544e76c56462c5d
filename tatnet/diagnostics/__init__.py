"""Diagnostics: what the papers measure, as tools for one's own models.

`dynamics`: effective learning rates of normalised networks (Mehmeti-Goepel & Wand).
`linear_residual` and `expressivity`: identity parameterisation (Hardt & Ma).
"""

from tatnet.diagnostics import dynamics, expressivity, linear_residual

__all__ = ["dynamics", "expressivity", "linear_residual"]
