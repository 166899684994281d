"""Measuring: a model's features, the probes that read accuracies off them, and a trial's readings."""

from bench.measuring.features import TargetScore, extract, map_images, target_score
from bench.measuring.knn import DEFAULT_KS, knn_accuracy
from bench.measuring.meter import Meter, computing
from bench.measuring.retention import SourceScore, check_bank, source_score, untouched_score

__all__ = [
    "DEFAULT_KS",
    "Meter",
    "SourceScore",
    "TargetScore",
    "check_bank",
    "computing",
    "extract",
    "knn_accuracy",
    "map_images",
    "source_score",
    "target_score",
    "untouched_score",
]
