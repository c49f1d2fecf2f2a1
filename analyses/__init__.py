"""Questions asked of caches: one file for each. `kdscope analyze NAME SOURCE...` answers with a tidy table and figures.

`ANALYSES` finds every analysis by itself, in this package and under the entry-point group `kdscope.analyses`.
"""

from kdscope.registry import Registry

ANALYSES: Registry = Registry("analysis", "kdscope.analyses", "kdscope.analyses")

__all__ = ["ANALYSES"]
