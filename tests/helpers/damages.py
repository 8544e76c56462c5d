"""Six ways in which a file may be damaged, for whatever a run writes."""


def flipped(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x01
  path.write_bytes(bytes(content))


def cut(path):
  path.write_bytes(path.read_bytes()[:-5])


def emptied(path):
  path.write_bytes(b"")


def zeroed(path):
  path.write_bytes(bytes(path.stat().st_size))


def deleted(path):
  path.unlink()


def made_a_folder(path):
  path.unlink()
  path.mkdir()


DAMAGES = (flipped, cut, emptied, zeroed, deleted, made_a_folder)
