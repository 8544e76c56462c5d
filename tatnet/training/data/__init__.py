"""Data for training: small sets as arrays, large ones as a stream of decoded batches.

Nothing here imports TensorFlow, and Grain, TFDS, OpenCV and scikit-learn are loaded
where they are first needed.
"""

from tatnet.training.data.arrays import ARRAY_DATA, load_arrays
from tatnet.training.data.augment import pad_crop_flip, shift
from tatnet.training.data.batches import EvaluationBatch, Shuffled, evaluation_batches
from tatnet.training.data.decode import (
  UnreadableImage,
  center_crop,
  decode_image,
  random_resized_crop_flip,
)
from tatnet.training.data.images import EncodedImage, ImageFolder, ImageSource, TfdsImages
from tatnet.training.data.pipeline import ImageBatches, image_batches
from tatnet.training.data.prepared import DamagedData, DataNotPrepared
from tatnet.training.data.source import (
  CHARACTERS,
  decode_text,
  encode_text,
  load_source,
  source_digest,
)
from tatnet.training.data.statistics import STATISTICS, ChannelStatistics, normalize

__all__ = [
  "ARRAY_DATA",
  "CHARACTERS",
  "STATISTICS",
  "ChannelStatistics",
  "DamagedData",
  "DataNotPrepared",
  "EncodedImage",
  "EvaluationBatch",
  "ImageBatches",
  "ImageFolder",
  "ImageSource",
  "Shuffled",
  "TfdsImages",
  "UnreadableImage",
  "center_crop",
  "decode_image",
  "decode_text",
  "encode_text",
  "evaluation_batches",
  "image_batches",
  "load_arrays",
  "load_source",
  "normalize",
  "pad_crop_flip",
  "random_resized_crop_flip",
  "shift",
  "source_digest",
]
