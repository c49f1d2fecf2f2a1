"""Datasets -> splits -> batches on the device, with batched augmentation whose every view can be made again."""

from kdscope.data.augment import AUGMENTATIONS, View, augmentation
from kdscope.data.batches import Batch, Batches
from kdscope.data.catalogue import DATASETS, load
from kdscope.data.split import Dataset, Split

__all__ = ["AUGMENTATIONS", "DATASETS", "Batch", "Batches", "Dataset", "Split", "View", "augmentation", "load"]
