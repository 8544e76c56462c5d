"""What `accelerator.py` measures on one device: a part a file, each by a function `measure`."""
