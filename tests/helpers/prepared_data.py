"""Where the tests find prepared data sets; without them, they are skipped."""

import os
import pathlib

DATA = pathlib.Path(
  os.environ.get("TATNET_DATA") or pathlib.Path(__file__).parents[3] / "shared" / "data"
)
