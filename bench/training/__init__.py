"""Training: the loop, its steps, augmentation, and shared activations. Torch only; it reports through a callable."""

from bench.training.loop import Feed, Trained, batches, resolve, shares, train
from bench.training.losses import Report, Watch
from bench.training.memory import PeakMemory
from bench.training.modes import compile_blocks, evaluation_mode, training_mode
from bench.training.precision import precision_on, tensor_cores
from bench.training.prefix import (
    Shared,
    Use,
    budget,
    check_views,
    forget_all_but,
    measuring_use,
    share_memory,
    shares_training,
    too_many_views,
    training_use,
    views,
)
from bench.training.snapshot import Snapshots
from bench.training.steps import DivergedError, Terms, learning_rate, make_optimizer, terms_of

__all__ = [
    "DivergedError",
    "Feed",
    "PeakMemory",
    "Report",
    "Shared",
    "Snapshots",
    "Terms",
    "Trained",
    "Use",
    "Watch",
    "batches",
    "budget",
    "check_views",
    "compile_blocks",
    "evaluation_mode",
    "forget_all_but",
    "learning_rate",
    "make_optimizer",
    "measuring_use",
    "precision_on",
    "resolve",
    "share_memory",
    "shares",
    "shares_training",
    "tensor_cores",
    "terms_of",
    "too_many_views",
    "train",
    "training_mode",
    "training_use",
    "views",
]
