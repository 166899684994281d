"""What can be asked for: studies, benchmarks, trials. Frozen, strict, and free of torch and Ray.

Every mistake is a :class:`SpecError` (a ``ValueError``) with one sentence that says what to write instead.
"""

from bench.spec.benchmark import Backbone, BadImages, Benchmark, Size, SourceData, TargetData
from bench.spec.characters import printable
from bench.spec.launch import LaunchOptions
from bench.spec.objective import QUANTITIES, Constraint, Objective, Quantity, bound_in
from bench.spec.parsing import (
    LARGEST,
    Frozen,
    Scalar,
    SpecError,
    Value,
    explain,
    number_type,
    parse,
    readable,
    shown,
    unknown,
)
from bench.spec.study import Belief, Protocol, SearchContext, Space, Study, Suite, row_label
from bench.spec.text import Name, check_name, read_text, sentence
from bench.spec.train import TrainConfig
from bench.spec.trial import Phase, Trial, make_trial

__all__ = [
    "LARGEST",
    "QUANTITIES",
    "Backbone",
    "BadImages",
    "Belief",
    "Benchmark",
    "Constraint",
    "Frozen",
    "LaunchOptions",
    "Name",
    "Objective",
    "Phase",
    "Protocol",
    "Quantity",
    "Scalar",
    "SearchContext",
    "Size",
    "SourceData",
    "Space",
    "SpecError",
    "Study",
    "Suite",
    "TargetData",
    "TrainConfig",
    "Trial",
    "Value",
    "bound_in",
    "check_name",
    "explain",
    "make_trial",
    "number_type",
    "parse",
    "printable",
    "read_text",
    "readable",
    "row_label",
    "sentence",
    "shown",
    "unknown",
]
