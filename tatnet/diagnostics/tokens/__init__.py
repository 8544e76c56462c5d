"""Kernels over tokens of a transformer that runs, block by block, against the plan."""

from tatnet.diagnostics.tokens.figure import token_figure
from tatnet.diagnostics.tokens.report import TokenLayer, TokenReport, token_report

__all__ = ["TokenLayer", "TokenReport", "token_figure", "token_report"]
