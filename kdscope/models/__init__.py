"""Teachers and students: plain modules, images [B, 3, H, W] in, logits [B, C] out; features come from forward hooks."""

from kdscope.models.capacity import matching_multiplier
from kdscope.models.cost import Profile, profile
from kdscope.models.layers import blocks, entries, final_map, preactivations
from kdscope.models.structure import classifier, stages
from kdscope.models.weights import load_weights, save_weights, weights_hash
from kdscope.models.zoo import MODELS, build, names, summary

__all__ = [
    "MODELS",
    "Profile",
    "blocks",
    "build",
    "classifier",
    "entries",
    "final_map",
    "load_weights",
    "matching_multiplier",
    "names",
    "preactivations",
    "profile",
    "save_weights",
    "stages",
    "summary",
    "weights_hash",
]
