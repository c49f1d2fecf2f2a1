"""Detection datasets -> splits of images with boxes -> batches on the device."""

from kdscope.detection.data.catalogue import DETECTION_DATASETS, load
from kdscope.detection.data.record import DetectionDataset, DetectionSplit, Objects, Record

__all__ = ["DETECTION_DATASETS", "DetectionDataset", "DetectionSplit", "Objects", "Record", "load"]
