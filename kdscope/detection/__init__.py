"""Distillation of object detectors: the same engine, with boxes in place of classes of images."""
