"""The pages of docs/reference/: every field, command, event and study, as the code has them."""

from __future__ import annotations

import argparse
import functools
import importlib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bench import __main__, data, methods
from bench.launching import benchmarks, cli, studies
from bench.launching.request import FLAGS, PARTS
from bench.reporting import events
from bench.spec import LaunchOptions, Study, TrainConfig, Value
from bench.spec.aliases import ALIASES

MADE = "<!-- Made from the code by docs/generate.py: do not edit. -->\n\n"

LIMITS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("min_length", "at least"), ("max_length", "at most"))

WIDTH = 100
"""Columns of a page's help texts."""

Table = Sequence[Sequence[str]]


def write(folder: Path) -> None:
    """Write all pages; what has not changed keeps its time, so that Sphinx reads it once."""
    folder.mkdir(exist_ok=True)
    pages = {"fields": fields(), "commands": commands(), "events": all_events(), "catalogue": catalogue(), "api": api()}
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != MADE + text:
            path.write_text(MADE + text, encoding="utf-8")


def table(header: Sequence[str], rows: Table) -> str:
    """A Markdown table."""
    lines = [[*header], ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def fields() -> str:
    """What a study, a recipe, a benchmark, a method and a launch can be asked for."""
    parts = ["# Fields\n\nEvery field can be set with `--set <name>=<value>`; flags are short for some of them.\n"]
    parts.append("## Of a study\n\nIn `search_spaces/<name>.yaml`, or `--set <field>=<value>`.\n")
    parts.append(_of_model(Study, "", skip=("name",)))
    parts.append(
        "## Of a recipe\n\n`--set train.<field>=<value>`, or searched as `search.<field>`: "
        "see [recipes](../recipes.md).\n"
    )
    parts.append(_of_model(TrainConfig, "train."))
    parts.append("## Of a benchmark\n\n`--set <part>.<field>=<value>`: see [benchmarks](../benchmarks.md).\n")
    parts += [_of_model(model, f"{part}.") for part, model in PARTS.items()]
    parts.append("## Of a launch\n\nNothing of it changes a number.\n")
    parts.append(_of_model(LaunchOptions, ""))
    parts.append("## Of methods\n\nSearched as `search.<field>`, or fixed as `fixed.<field>`.\n")
    for name in methods.names():
        parts.append(f"### {name}\n\n{methods.summary(name)}\n")
        rows = [
            [f"`{field}`", _typed(about.type), f"`{about.default}`", about.doc]
            for field, about in methods.fields(name).items()
        ]
        parts += [table(("field", "type", "default", "what it does"), rows)] if rows else []
    return "\n".join(parts)


def _of_model(model: type[BaseModel], prefix: str, skip: Sequence[str] = ()) -> str:
    flags = {field: flag.option for flag in FLAGS for field in flag.fields}
    rows = []
    for name, about in model.model_fields.items():
        if name in skip or about.exclude:  # which nobody sets
            continue
        flag = flags.get(f"{prefix}{name}") or flags.get(name) if prefix != "train." else None
        said = about.description or ""
        rows.append([f"`{prefix}{name}`", _kind(about), _default(about), said + (f" (`{flag}`)" if flag else "")])
    return table(("field", "type", "default", "what it does"), rows)


def _kind(about: FieldInfo) -> str:
    """A field's type, with its limits."""
    found = [f"{sign} {value:,}" for name, sign in LIMITS for value in _limit(about.metadata, name)]
    return ", ".join([_typed(about.annotation), *found])


def _limit(metadata: Sequence[Any], name: str) -> Iterator[Any]:
    yield from (getattr(one, name) for one in metadata if getattr(one, name, None) is not None)


def _typed(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation == Value:
        return "value"
    if origin is Annotated:
        return _typed(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("empty" if one is type(None) else _typed(one) for one in inner))
    if origin in (tuple, list):
        return f"list of {_typed(inner[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {_typed(inner[0])} to {_typed(inner[1])}"
    words = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(about: FieldInfo) -> str:
    if about.is_required():
        return "has to be given"
    if about.default_factory is not None or about.default in ((), None):
        return "empty"
    value = about.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def commands() -> str:
    """What ``--help`` says of every command."""
    own = __main__.arguments()
    (inner,) = [action.choices for action in own._actions if isinstance(action.choices, dict)]
    parsers = {"python launch.py": cli.arguments(), "python -m bench": own}
    parsers |= {f"python -m bench {name}": parser for name, parser in inner.items() if name != "launch"}
    texts = [f"## {name}\n\n```text\n{_help(parser)}\n```\n" for name, parser in parsers.items()]
    return "\n".join(["# Commands\n", *texts])


def _help(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = functools.partial(argparse.RawDescriptionHelpFormatter, width=WIDTH)  # type: ignore[assignment]
    return parser.format_help().rstrip()


EVENTS = """\
# Events

With `--json` a launch prints events for programs instead of text for people: one JSON object a line, in UTF-8. Every
object has `event` and `time` (when it was written, ISO 8601 in UTC). Fields may be added in later versions; those that
are here stay. Bad input ends with the event `ended` alone, and as always with one sentence on stderr and exit code 2.
"""


def all_events() -> str:
    """What ``--json`` prints."""
    parts = [EVENTS]
    for kind in events.EVENTS:
        parts.append(f"## {kind.model_fields['event'].default}\n\n{kind.__doc__}\n".replace("``", "`"))
        parts.append(_of_event(kind))
    parts.append("## What events hold\n")
    for kind in (events.StudyPlan, events.Answered):
        parts.append(f"### {kind.__name__}\n\n{kind.__doc__}\n")
        parts.append(_of_event(kind))
    return "\n".join(parts)


def _of_event(kind: type[BaseModel]) -> str:
    shown = {name: about for name, about in kind.model_fields.items() if name not in ("event", "time")}
    rows = [
        [f"`{name}`", _typed(about.annotation).replace("empty", "null"), about.description or ""]
        for name, about in shown.items()
    ]
    return table(("field", "type", "what it is"), rows)


def catalogue() -> str:
    """What there is: studies, benchmarks, data sets, backbones."""
    parts = ["# Catalogue\n", "## Studies\n"]
    parts.append(table(("study", "what it is"), [[f"`{name}`", studies.headline(name)] for name in studies.names()]))
    parts.append("## Benchmarks\n")
    rows = [[f"`{name}`", one.summary] for name, one in benchmarks.BENCHMARKS.items()]
    parts.append(table(("benchmark", "what it is"), rows))
    parts.append(
        f"## Data sets\n\n{', '.join(f'`{name}`' for name in data.names())}; `folder:<path>` is one of yours.\n"
    )
    parts.append("## Backbones\n\n`tiny`, any of timm's vision transformers with a class token, and short names:\n")
    parts.append(table(("name", "timm's"), [[f"`{name}`", f"`{full}`"] for name, full in ALIASES.items()]))
    return "\n".join(parts)


PUBLIC: Mapping[str, Sequence[str]] = {
    "bench.spec": (
        "Study",
        "Suite",
        "Benchmark",
        "Trial",
        "TrainConfig",
        "Objective",
        "make_trial",
        "parse",
        "SpecError",
    ),
    "bench.methods": ("load", "names", "fields", "Method", "Step", "Group", "train_only"),
    "bench.data": ("target", "source", "Images", "Split", "Target", "Source", "Request"),
    "bench.models": ("create", "build", "load", "features", "Setting", "preprocess"),
    "bench.training": ("train", "Feed", "Watch"),
    "bench.measuring": ("knn_accuracy", "extract", "Meter"),
    "bench.trial": ("run",),
    "bench.folder": ("LaunchFolder",),
    "bench.records": ("Record", "read"),
    "bench.readings": ("Reading", "Answers"),
    "bench.checkpoints": ("evaluate", "merge", "export", "predict"),
    "bench.reporting.outcomes": ("Outcome", "difference"),
    "bench.reporting.rows": ("build", "tidy", "wide"),
    "bench.reporting.answers": ("answers",),
    "bench.reporting.audit": ("audit",),
    "bench.reporting.archive": ("pack", "unpack", "differences"),
    "bench.launching.request": ("Request",),
    "bench.launching.preflight": ("prepare",),
    "bench.launching.study": ("run",),
}
"""What people import: see docs/architecture.md."""


def api() -> str:
    """The public API, by autodoc."""
    parts = ["# Python\n\nWhat can be imported; [architecture](../architecture.md) says what is where.\n"]
    for module, names in PUBLIC.items():
        parts.append(f"## {module}\n\n```{{eval-rst}}\n.. py:module:: {module}\n")
        parts += [_directive(module, name) for name in names]
        parts.append("```\n")
    return "\n".join(parts)


def _directive(module: str, name: str) -> str:
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type):
        return f".. autofunction:: {module}.{name}\n"
    kind = "autoexception" if issubclass(found, Exception) else "autoclass"
    return f".. {kind}:: {module}.{name}\n   :members:\n"
