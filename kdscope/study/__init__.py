"""A study: a paper as a YAML file, a grid of runs and the questions put to them. `kdscope study run NAME` does it."""

from kdscope.study.cells import Cell, cells
from kdscope.study.schema import Study, load_study, names

__all__ = ["Cell", "Study", "cells", "load_study", "names"]
