"""kdscope trains knowledge-distillation methods and measures why they work."""

__version__ = "0.1.0"
