"""Models: backbones with weights, their preprocessing, and the model of a trial with everything that it needs."""

from bench.models.architectures import TINY, TINY_ARCHITECTURE, constructor, depth, plain, shapes_only, timm_name
from bench.models.backbones import features, same_features, untouched
from bench.models.build import (
    CPU,
    Start,
    build,
    kept_tensors,
    load,
    outline,
    restore,
    start_of,
    trained_tensors,
)
from bench.models.head_norm import HeadNorm, add_head_norm, fold_head_norm
from bench.models.preprocess import TINY_PREPROCESS, Preprocess, check_size, preprocess, unseen_border
from bench.models.setting import Setting, source_of, target_of
from bench.models.tail import Read, Tail, split
from bench.models.weights import create, read_weights

__all__ = [
    "CPU",
    "TINY",
    "TINY_ARCHITECTURE",
    "TINY_PREPROCESS",
    "HeadNorm",
    "Preprocess",
    "Read",
    "Setting",
    "Start",
    "Tail",
    "add_head_norm",
    "build",
    "check_size",
    "constructor",
    "create",
    "depth",
    "features",
    "fold_head_norm",
    "kept_tensors",
    "load",
    "outline",
    "plain",
    "preprocess",
    "read_weights",
    "restore",
    "same_features",
    "shapes_only",
    "source_of",
    "split",
    "start_of",
    "target_of",
    "timm_name",
    "trained_tensors",
    "unseen_border",
    "untouched",
]
