"""Training: the loop, its steps, augmentation, and shared activations. Torch only; it reports through a callable."""

from bench.training.loop import Feed, Trained, batches, resolve, shares, train
from bench.training.losses import Report, Watch
from bench.training.memory import PeakMemory
from bench.training.modes import evaluation_mode, training_mode
from bench.training.precision import precision_on
from bench.training.prefix import Tail, activations, make_room
from bench.training.snapshot import Snapshots
from bench.training.steps import DivergedError, Terms, learning_rate, make_optimizer, terms_of

__all__ = [
    "DivergedError",
    "Feed",
    "PeakMemory",
    "Report",
    "Snapshots",
    "Tail",
    "Terms",
    "Trained",
    "Watch",
    "activations",
    "batches",
    "evaluation_mode",
    "learning_rate",
    "make_optimizer",
    "make_room",
    "precision_on",
    "resolve",
    "shares",
    "terms_of",
    "train",
    "training_mode",
]
