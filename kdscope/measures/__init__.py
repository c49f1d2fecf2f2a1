"""Numbers about arrays: how alike two networks are, each with a confidence interval. No model, no file, no figure.

`MEASURES` finds every measure by itself, in this package and under the entry-point group `kdscope.measures`.
"""

from kdscope.registry import Registry

MEASURES: Registry = Registry("measure", "kdscope.measures", "kdscope.measures")

__all__ = ["MEASURES"]
