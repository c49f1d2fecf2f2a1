"""Where a network looks."""

from kdscope.attention.activation import activation_map

__all__ = ["activation_map"]
