"""Distillation methods for object detectors, one file each."""
