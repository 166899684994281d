"""What is asked for on the command line, as one object. Flags are made from the fields that they set.

``--backbone X`` is ``--set backbone.name=X``; what ``--help`` says of it is what the field says of itself.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from bench.launching.changes import Change, assignment, refuse_contradictions
from bench.spec import Backbone, LaunchOptions, SourceData, SpecError, Study, TargetData, parse


@dataclass(frozen=True)
class Flag:
    """An option of the command line that is short for ``--set field=value``."""

    option: str
    fields: tuple[str, ...]
    metavar: str

    @property
    def about(self) -> FieldInfo:
        """The field that it sets, or the first one of them."""
        model, name = _owner(self.fields[0])
        return model.model_fields[name]

    @property
    def kind(self) -> Any:
        """Its type without None."""
        annotation = self.about.annotation
        if isinstance(annotation, types.UnionType):
            (annotation,) = (part for part in get_args(annotation) if part is not type(None))
        return annotation

    @property
    def values(self) -> list[str] | None:
        """What it takes, if that is one of a few words."""
        return list(get_args(self.kind)) if get_origin(self.kind) is Literal else None

    @property
    def several(self) -> bool:
        """Whether it takes a list of numbers."""
        return get_origin(self.kind) is tuple

    def changes(self, value: Any) -> list[Change]:
        """What it asks for with a value.

        Raises:
            SpecError: its field does not take the value.
        """
        info = self.about
        try:
            TypeAdapter(info.rebuild_annotation()).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise SpecError(f"{self.option} {value}: {reason[0].lower()}{reason[1:]}") from None
        return [Change(tuple(name.split(".")), value, self.option) for name in self.fields]


PARTS: Mapping[str, type[BaseModel]] = {"backbone": Backbone, "source": SourceData, "target": TargetData}
"""A benchmark has these groups of fields."""


def _owner(dotted: str) -> tuple[type[BaseModel], str]:
    part, _, name = dotted.rpartition(".")
    if part:
        return PARTS[part], name
    return (LaunchOptions if name in LaunchOptions.model_fields else Study), name


FLAGS = (
    Flag("--backbone", ("backbone.name",), "NAME"),
    Flag("--weights", ("backbone.weights",), "FILE"),
    Flag("--image-size", ("backbone.image_size",), "PIXELS"),
    Flag("--source", ("source.name",), "NAME"),
    Flag("--source-per-class", ("source.per_class",), "N"),
    Flag("--target", ("target.name",), "NAME"),
    Flag("--bad-images", ("source.bad_images", "target.bad_images"), "WHAT"),
    Flag("--trials", ("trials",), "N"),
    Flag("--seeds", ("seeds",), "SEED"),
    Flag("--trial-minutes", ("trial_minutes",), "MINUTES"),
    Flag("--num-workers", ("workers",), "N"),
    Flag("--slots", ("slots",), "M"),
    Flag("--gpus", ("gpus",), "N"),
    Flag("--cpus", ("cpus",), "N"),
    Flag("--address", ("address",), "ADDRESS"),
    Flag("--wait-minutes", ("wait_minutes",), "MINUTES"),
    Flag("--quiet", ("quiet",), ""),
    Flag("--json", ("json_lines",), ""),
    Flag("--results", ("results",), "FOLDER"),
    Flag("--fresh", ("fresh",), ""),
    Flag("--tracking-uri", ("tracking_uri",), "URI"),
    Flag("--optuna-storage", ("optuna_storage",), "URL"),
    Flag("--replay", ("replay",), "FILE"),
)


@dataclass(frozen=True)
class Request:
    """A study on a benchmark, with changes to either of them, and where to run it."""

    study: str | None
    benchmark: str = "tiny"
    changes: tuple[Change, ...] = ()
    options: LaunchOptions = field(default_factory=LaunchOptions)

    @classmethod
    def of(cls, study: str | None, benchmark: str = "tiny", changes: Iterable[Change] = ()) -> Request:
        """Sort changes: those of :class:`~bench.spec.LaunchOptions` are taken out of the others.

        Raises:
            SpecError: one of them has the wrong type or range, or two set a field to different values.
        """
        all_of_them = [_whole(change) for change in changes]
        refuse_contradictions(all_of_them)
        own = [change for change in all_of_them if change.path[0] in LaunchOptions.model_fields]
        if deep := next((change for change in own if len(change.path) > 1), None):
            raise SpecError(f"{deep.said}: {deep.path[0]} is a value, not a group of fields")
        options = parse(LaunchOptions, {change.name: change.value for change in own}, where="launch")
        rest = tuple(change for change in all_of_them if change not in own)
        return cls(study, benchmark, rest, options)

    @classmethod
    def parsed(cls, arguments: argparse.Namespace) -> Request:
        """The request of a command line that :func:`add_flags` has described.

        Raises:
            SpecError: a flag's field does not take its value, or ``--set`` is given something else than name=value.
        """
        changes = [assignment(text) for text in arguments.overrides]
        for flag in FLAGS:
            value = getattr(arguments, _destination(flag))
            if value is not None:
                changes += flag.changes([one for word in value for one in word] if flag.several else value)
        return cls.of(arguments.study, arguments.benchmark, changes)


def _whole(change: Change) -> Change:
    """The change by its field's full name: ``--set target=digits`` is ``--set target.name=digits``."""
    short = change.path[0] in PARTS and len(change.path) == 1
    return change._replace(path=(*change.path, "name")) if short else change


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag to a command line, with what its field says of itself."""
    for flag in FLAGS:
        extra: dict[str, Any] = {"choices": flag.values} if flag.values else {"metavar": flag.metavar}
        if flag.kind is bool:
            extra = {"action": "store_true", "default": None}
        elif flag.several:
            extra |= {"nargs": "+", "type": _numbers}
        elif flag.kind in (int, float):
            extra |= {"type": flag.kind}
        parser.add_argument(flag.option, help=_help(flag), **extra)


def _destination(flag: Flag) -> str:
    return flag.option.removeprefix("--").replace("-", "_")


def _help(flag: Flag) -> str:
    """What the field says, its default, and its long name."""
    default = flag.about.get_default()
    known = not flag.about.is_required() and default is not None and flag.kind is not bool
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    said = f"{flag.about.description}" + (f" (default: {shown})" if known and not _in_study(flag) else "")
    return f"{said} [{', '.join(flag.fields)}]".replace("%", "%%")


def _in_study(flag: Flag) -> bool:
    """Whether a study's file says what the default is."""
    return _owner(flag.fields[0])[0] is Study


def _numbers(text: str) -> Sequence[int]:
    """One word of a list: a number, or several with commas between them."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor several with commas between them") from None
