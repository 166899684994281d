"""Study files: reading ``search_spaces/<name>.yaml``, laying the command line over it, and checking all of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench import methods, records
from bench.spec import (
    Backbone,
    Benchmark,
    SpecError,
    Study,
    Suite,
    TrainConfig,
    Trial,
    Value,
    make_trial,
    parse,
    unknown,
)

START = "start_from"
ALIASES = {"data.views": "train.views"}
"""Other names of fields on the command line."""

FOLDER = Path(__file__).parent.parent / "search_spaces"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: PyYAML follows YAML 1.1 and reads ``1e-3`` as text."""


_Loader.yaml_implicit_resolvers = {  # a copy: the class shares its table with SafeLoader
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+0123456789."),
)


def names(folder: Path = FOLDER) -> list[str]:
    """Names of the studies in the folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def headline(name: str, folder: Path = FOLDER) -> str:
    """The first line of a study file's header comment."""
    return (folder / f"{name}.yaml").read_text().splitlines()[0].removeprefix("#").strip()


def load(
    name: str,
    *,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    folder: Path = FOLDER,
) -> Suite:
    """Read a study; a single one is a suite of one.

    Args:
        name: of the file in the folder, or a path to a ``.yaml`` file anywhere.
        overrides: ``dotted.name=value`` assignments, each of which must fit at least one study of a suite.
        settings: whole fields to replace, such as ``trials``.
        folder: where studies are looked up by name; members of a suite are looked up there too.

    Raises:
        SpecError: there is no such study, or anything in it does not hold.
    """
    values = _read(name, folder)
    settings = dict(settings or {})
    changes = [assignment(text) for text in overrides]
    title = Path(name).stem
    if "suite" not in values:
        for path, value in changes:
            _assign(values, path, value)
        return Suite(name=title, studies=(_study(title, _settled(values, settings)),))
    return _suite(title, values, settings, changes, folder)


def _settled(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A study with the command line's settings; the paper's protocol has one seed, unless they ask for more."""
    seeds = values.get("seeds", Study.model_fields["seeds"].default)
    single = values.get("protocol") == "paper" and isinstance(seeds, list | tuple)
    return {**values, **({"seeds": seeds[:1]} if single else {}), **settings}


def _suite(
    title: str,
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
    changes: Sequence[tuple[list[str], Any]],
    folder: Path,
) -> Suite:
    common = {key: value for key, value in values.items() if key != "suite"}
    documents = {}
    for member, own in _members(title, values["suite"]).items():
        documents[member] = {**_read(member, folder), **common}
        for name, value in own.items():
            _assign(documents[member], name.split("."), value)
    for path, value in changes:
        fitting = [document for document in documents.values() if _fits(document, path)]
        if not fitting:
            raise SpecError(f"--set {'.'.join(path)}: no study of the suite {title!r} has this field")
        for document in fitting:
            _assign(document, path, value)
    studies = tuple(_study(name, _settled(doc, settings)) for name, doc in documents.items())
    return parse(Suite, {"name": title, "studies": studies}, where=f"suite {title!r}")


def _members(title: str, suite: Any) -> dict[str, dict[str, Any]]:
    """The studies of a suite, each with what the suite changes in it: ``name`` or ``{name: {dotted.name: value}}``."""
    members: dict[str, dict[str, Any]] = {}
    for entry in suite if isinstance(suite, list) else ():
        pairs = entry.items() if isinstance(entry, dict) else [(entry, {})]
        members.update({name: own for name, own in pairs if isinstance(name, str) and isinstance(own, dict)})
    if not members or len(members) != len(suite):
        raise SpecError(
            f"study {title!r}: suite must be a list of study names, each once and each alone or with what changes in "
            f"it (top_k: {{search.k.choices: [3]}}), not {suite!r}"
        )
    return members


def _read(name: str, folder: Path) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown("study", name, names(folder))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or an impossible date
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise SpecError(f"{path}{line}: this is not YAML: {reason}") from None
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a study is a mapping of fields, not {type(values).__name__}")
    return values


def assignment(text: str) -> tuple[list[str], Any]:
    """The dotted name and the value of ``--set name=value``; the value is YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SpecError(f"--set {text!r} must have the form name=value, such as train.steps=100")
    try:
        return ALIASES.get(path, path).split("."), yaml.load(value, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        raise SpecError(f"--set {text!r}: {value!r} is not a YAML value") from None


def _fits(document: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a study has the place that a dotted name leads to: fields of one method need not exist in another's."""
    if path[0] == "search" and len(path) > 1:
        return path[1] in (document.get("search") or {})
    if path[0] == "fixed" and len(path) > 1:
        return path[1] in TrainConfig.model_fields or path[1] in methods.fields(document["method"])
    return True


def _assign(document: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for depth, part in enumerate(path[:-1], start=1):
        inner = document.get(part) or {}
        if not isinstance(inner, dict):
            name = ".".join(path[:depth])
            raise SpecError(f"--set {'.'.join(path)}: {name} is a value, not a group of fields")
        document[part] = dict(inner)
        document = document[part]
    document[path[-1]] = value


def _study(name: str, values: Mapping[str, Any]) -> Study:
    where = f"study {name!r}"
    _check_names(values, where)
    return _absolute(parse(Study, {"name": name, **values}, where=where))


def _absolute(study: Study) -> Study:
    """The study with absolute paths to start from: workers may run in another folder."""

    def path(value: Value) -> Value:
        return str(Path(value).absolute()) if isinstance(value, str) and value else value

    def change(values: Mapping[str, Value]) -> dict[str, Value]:
        return {name: path(value) if name == START else value for name, value in values.items()}

    search = dict(study.search)
    if START in search and (choices := search[START].choices) is not None:
        search[START] = search[START].model_copy(update={"choices": tuple(path(value) for value in choices)})
    changed = {"train": change(study.train), "fixed": change(study.fixed), "search": search}
    return study.model_copy(update=changed)


def _check_names(values: Mapping[str, Any], where: str) -> None:
    """Names come before values: a misspelt field is not to be reported as an incomplete space."""
    method = values.get("method")
    if not isinstance(method, str):
        return  # what is wrong with it is said when the study is parsed
    if method not in methods.names():
        raise SpecError(f"{where}: {unknown('method', method, methods.names())}")
    known = [*TrainConfig.model_fields, *methods.fields(method)]
    for part in ("search", "fixed"):
        chosen = values.get(part) or {}
        for field in chosen if isinstance(chosen, dict) else ():
            if field not in known:
                names = [f"{part}.{name}" for name in known]
                raise SpecError(f"{where}: {unknown(f'field of {method}', f'{part}.{field}', names)}")


def check(study: Study, benchmark: Benchmark, *, depth: int, workers: int = 1) -> None:
    """Try every corner of a study's space on a benchmark, without building anything.

    Args:
        depth: transformer blocks of the benchmark's backbone.
        workers: processes that share each batch.

    Raises:
        SpecError: a method field or a training field takes a value that it cannot have on this benchmark.
    """
    where = f"study {study.name!r} on benchmark {benchmark.name!r}"
    for trial in corners(study, benchmark):
        try:
            methods.load(trial.method, **trial.fields).check(depth)
            trial.train.check_shares(workers)
            _check_start(trial)
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None
        if trial.train.accumulate > 1 and benchmark.head_norm:
            raise SpecError(
                f"{where}: accumulate = {trial.train.accumulate} would split the batch whose statistics the head norm "
                f"takes; use accumulate = 1 or a benchmark without head_norm"
            )
        if study.scheduler == "asha" and study.protocol == "paper":
            raise SpecError(f"{where}: scheduler asha needs validation readings, and protocol paper has none")
        if study.scheduler == "asha" and not trial.train.val_every:
            raise SpecError(f"{where}: scheduler asha needs readings to compare; set train.val_every")
        if study.scheduler == "asha" and trial.train.epochs is not None:
            raise SpecError(f"{where}: scheduler asha needs to know the last step; set train.steps instead of epochs")


def _check_start(trial: Trial) -> None:
    """Refuse a trial to start from that does not exist, kept nothing, or had another backbone."""
    if trial.train.start_from is None:
        return
    record, _ = records.trained(Path(trial.train.start_from))
    found, own = Backbone.model_validate(record.config["benchmark"]["backbone"]), trial.benchmark.backbone
    if found != own:
        raise SpecError(f"start_from = {trial.train.start_from} has the backbone {found}, not {own}")


def corners(study: Study, benchmark: Benchmark) -> list[Trial]:
    """One trial for every combination of the space's corners (see :attr:`bench.spec.Space.corners`)."""
    searched = study.search
    return [
        make_trial(
            study,
            benchmark,
            dict(zip(searched, values, strict=True)),
            launch=study.name,
            label=f"corner-{index}",
            seed=study.seeds[0],
            phase="search",
        )
        for index, values in enumerate(itertools.product(*(space.corners for space in searched.values())))
    ]
