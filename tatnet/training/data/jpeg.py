"""What a JPEG file's markers tell about it before it is decoded.

Decoders fill what they cannot read with grey, or with whatever damaged bits say, and
succeed. JPEG has no checksums, but compressed data cannot hold arbitrary bytes: after
0xff only 0, restart markers in their order and the markers of segments may come, and a
long run of zeros would be the same coefficient over and over.
"""

import numpy as np

START, _END = b"\xff\xd8", 0xD9
_SCAN, _TABLES = 0xDA, 0xC4
_SEQUENTIAL = (0xC0, 0xC1)  # frames; the scans of others may well have zeros
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEGMENTS = frozenset({0xC4, 0xCC, _SCAN, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_RESTARTS = range(0xD0, 0xD8)
_ZEROS = bytes(64)


class Damaged(ValueError):  # noqa: N818, a state of a file
  """The markers are not those of a whole file."""


def size(encoded: bytes) -> tuple[int, int]:
  """Height and width of a JPEG whose markers are in order to its end; raises Damaged else."""
  array = np.frombuffer(encoded, np.uint8)
  place, found, frame, scans, tables = 2, None, None, 0, set()
  try:
    while True:
      marker, place = _marker(encoded, place)
      if marker == _END:
        break
      if marker not in _SEGMENTS and marker not in _FRAMES:
        raise Damaged(f"the marker {marker:#x} at byte {place - 2}")
      content = place + 2
      place += int.from_bytes(encoded[place:content])
      if place > len(encoded) or place < content:
        raise Damaged("a segment is cut off")
      if marker in _FRAMES:
        numbers = encoded[content + 1 : content + 5]
        found, frame = (int.from_bytes(numbers[:2]), int.from_bytes(numbers[2:])), marker
      elif marker == _TABLES:
        tables |= _first_symbols(encoded[content:place])
      elif marker == _SCAN:
        scans += 1
        start, place = place, _end_of_scan(array, place)
        has_zeros = encoded.find(_ZEROS, start, place) >= 0
        if has_zeros and frame in _SEQUENTIAL and tables != {0}:
          raise Damaged("zeros in the compressed data")
  except IndexError as error:
    raise Damaged("no end") from error
  if found is None or not scans:
    raise Damaged("no image")
  return found


def _marker(encoded: bytes, place: int) -> tuple[int, int]:
  """The marker at a place, and the place behind it."""
  if encoded[place] != 0xFF:
    raise Damaged(f"no marker at byte {place}")
  while encoded[place] == 0xFF:  # any number of them may come before
    place += 1
  return encoded[place], place + 1


def _end_of_scan(array: np.ndarray, place: int) -> int:
  """The place of the first marker behind compressed data that does not belong to it."""
  places = place + np.flatnonzero(array[place:-1] == 0xFF)
  following = array[places + 1]
  is_restart = (following >= _RESTARTS.start) & (following < _RESTARTS.stop)
  ends = np.flatnonzero((following != 0) & ~is_restart)
  last = ends[0]
  restarts = following[:last][is_restart[:last]]
  if not np.array_equal(restarts, _RESTARTS.start + np.arange(len(restarts)) % 8):
    raise Damaged("restart markers out of order")
  return int(places[last])


def _first_symbols(tables: bytes) -> set[int]:
  """Of Huffman tables for coefficients other than the mean: what a code of zeros alone means."""
  found, place = set(), 0
  while place < len(tables):
    symbols = sum(tables[place + 1 : place + 17])
    if tables[place] >> 4 and symbols:
      found.add(tables[place + 17])
    place += 17 + symbols
  return found
