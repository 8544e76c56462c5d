"""An empty figure, for those who have matplotlib."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def canvas(function: str, size: tuple[float, float]) -> "Figure":
  """A figure that belongs to no window and to no pyplot state.

  Args:
    function: who asks for it, for the error.
    size: width and height in inches.

  Raises:
    ImportError: matplotlib is not installed.

  Example:
    >>> from tatnet.diagnostics.canvas import canvas
    >>> canvas("my_figure", (10, 7.5)).axes
    []
  """
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ImportError(
      f"{function} needs matplotlib, which is not installed: pip install matplotlib."
    ) from error
  return Figure(figsize=size, layout="constrained")
