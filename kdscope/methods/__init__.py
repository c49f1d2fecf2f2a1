"""Distillation methods, one file for each: its citation, its equation as a plain function, its term, its preset.

Adding one is adding one file here, or an entry point of the group `kdscope.methods` in another package.
"""

from kdscope.methods.method import METHODS, Method, resolve
from kdscope.methods.objective import Objective
from kdscope.methods.term import Term

__all__ = ["METHODS", "Method", "Objective", "Term", "resolve"]
