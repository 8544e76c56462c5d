"""What TensorBoard would show of a run's events."""


def scalars(folder):
  """Numbers by step and name; a file that starts at a step makes older ones forget it."""
  from tensorboardX.proto.event_pb2 import Event

  found = {}
  for file in sorted((folder / "tensorboard").iterdir()):
    content, place = file.read_bytes(), 0
    while place < len(content):  # a record: its length, a checksum, itself, a checksum
      length = int.from_bytes(content[place : place + 8], "little")
      event = Event.FromString(content[place + 12 : place + 12 + length])
      place += length + 16
      if event.HasField("session_log"):
        found = {step: values for step, values in found.items() if step < event.step}
      for value in event.summary.value:
        found.setdefault(event.step, {})[value.tag] = value.simple_value
  return found
