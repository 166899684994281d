"""Study files: reading ``search_spaces/<name>.yaml``, laying the command line over it, and checking all of it."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bench import data, methods
from bench.folder import trained
from bench.launching.changes import LARGEST_FILE, Change, NotYAML, assignment, parsed, refuse_contradictions
from bench.launching.project import STUDIES
from bench.records import read
from bench.spec import (
    Benchmark,
    SpecError,
    Study,
    Suite,
    TrainConfig,
    Trial,
    Value,
    make_trial,
    number_type,
    parse,
    read_text,
    shown,
    unknown,
)

START = "start_from"
TRIALS = ("trials", "trials_per_row")
"""Two ways to say one thing: the word that comes last counts."""

POINTS = 1000
"""A space is checked at so many points at most."""


def names(folder: Path = STUDIES) -> list[str]:
    """Names of the studies in the folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def headline(name: str, folder: Path = STUDIES) -> str:
    """The first line of a study file's header comment."""
    return (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def load(name: str, *, overrides: Sequence[str | Change] = (), folder: Path = STUDIES) -> Suite:
    """Read a study; a single one is a suite of one.

    Args:
        name: of the file in the folder, or a path to a ``.yaml`` file anywhere.
        overrides: changes, as such or as ``dotted.name=value``, each of which must fit at least one study of a suite.
        folder: where studies are looked up by name; members of a suite are looked up there too.

    Raises:
        SpecError: there is no such study, or anything in it does not hold.
    """
    values = _read(name, folder)
    changes = [assignment(change) if isinstance(change, str) else change for change in overrides]
    if any(change.path[0] == "name" for change in changes):
        raise SpecError("a study is called after its file: its name cannot be set")
    title = Path(name).stem
    if "suite" not in values:
        said = values
        values = _making_room(values, [change.path[0] for change in changes])
        for change in changes:
            _assign(values, change)
        return Suite(name=title, studies=(_study(title, _settled(values, changes, said)),))
    return _suite(title, values, changes, folder)


def _settled(values: dict[str, Any], changes: Sequence[Change], said: Mapping[str, Any]) -> dict[str, Any]:
    """A study under the paper's protocol has one seed, unless others are asked for.

    Args:
        said: what the file says that was asked for, which may name protocol and seeds together.
    """
    seeds = values.get("seeds", Study.model_fields["seeds"].default)
    asked = any(change.path == ("seeds",) for change in changes) or {"protocol", "seeds"} <= set(said)
    single = values.get("protocol") == "paper" and isinstance(seeds, list | tuple) and not asked
    return {**values, **({"seeds": seeds[:1]} if single else {})}


def _suite(title: str, values: Mapping[str, Any], changes: Sequence[Change], folder: Path) -> Suite:
    common = {key: value for key, value in values.items() if key != "suite"}
    documents = {}
    for member, own in _members(title, values["suite"]).items():
        documents[member] = {**_making_room(_read(member, folder), common), **common}
        documents[member] = _making_room(documents[member], own)
        inside = [Change(tuple(name.split(".")), value, f"suite {title!r}") for name, value in own.items()]
        refuse_contradictions(inside)
        for change in inside:
            _assign(documents[member], change)
        documents[member] = _making_room(documents[member], [change.path[0] for change in changes])
    for change in changes:
        fitting = [document for document in documents.values() if _fits(document, change.path)]
        if not fitting:
            raise SpecError(f"{change.said}: no study of the suite {title!r} has this field")
        for document in fitting:
            _assign(document, change)
    studies = tuple(_study(name, _settled(document, changes, common)) for name, document in documents.items())
    return parse(Suite, {"name": title, "studies": studies}, where=f"suite {title!r}")


def _making_room(values: Mapping[str, Any], changed: Collection[str]) -> dict[str, Any]:
    """A study's fields without those whose place a change takes: trials and trials_per_row take each other's."""
    instead = [other for one, other in (TRIALS, TRIALS[::-1]) if one in changed]
    return {name: value for name, value in values.items() if name not in instead}


def _members(title: str, suite: Any) -> dict[str, dict[str, Any]]:
    """The studies of a suite, each with what the suite changes in it: ``name`` or ``{name: {dotted.name: value}}``."""
    members: dict[str, dict[str, Any]] = {}
    for entry in suite if isinstance(suite, list) else ():
        pairs = entry.items() if isinstance(entry, dict) else [(entry, {})]
        members.update({name: own for name, own in pairs if isinstance(name, str) and _is_changes(own)})
    if not members or len(members) != len(suite):
        raise SpecError(
            f"study {title!r}: suite must be a list of study names, each once and each alone or with what changes in "
            f"it (top_k: {{search.k.choices: [3]}}), not {shown(suite)}"
        )
    return members


def _is_changes(own: Any) -> bool:
    return isinstance(own, dict) and all(isinstance(name, str) for name in own)


def _read(name: str, folder: Path) -> dict[str, Any]:
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else folder / f"{name}.yaml"
    if own and not os.path.lexists(path):
        raise SpecError(f"there is no study file {path}: check its path, or name a study of --list")
    if name not in names(folder) and not own:
        raise unknown("study", name, names(folder))
    try:
        values = parsed(read_text(path, most=LARGEST_FILE))
    except NotYAML as error:
        line = f", line {error.line}" if error.line else ""
        raise SpecError(f"{path}{line}: this is not YAML: {error}") from None
    except ValueError as error:
        raise SpecError(f"the study {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a study is a mapping of fields, not {type(values).__name__}")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise SpecError(f"{path}: {shown(strange[0])} is no name of a field")
    return values


def _fits(document: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a study has the place that a dotted name leads to: fields of one method need not exist in another's."""
    searched, method = document.get("search"), document.get("method")
    if path[0] == "search" and len(path) > 1:
        return isinstance(searched, dict) and path[1] in searched
    if path[0] == "fixed" and len(path) > 1:
        known = isinstance(method, str) and method in methods.names()  # else that is said when the study is parsed
        return path[1] in TrainConfig.model_fields or not known or path[1] in methods.fields(str(method))
    return True


def _assign(document: dict[str, Any], change: Change) -> None:
    path = change.path
    for depth, part in enumerate(path[:-1], start=1):
        inner = document.get(part) or {}
        if not isinstance(inner, dict):
            raise SpecError(f"{change.said}: {'.'.join(path[:depth])} is a value, not a group of fields")
        document[part] = dict(inner)
        document = document[part]
    document[path[-1]] = change.value


def _study(name: str, values: Mapping[str, Any]) -> Study:
    where = f"study {name!r}"
    _check_names(values, where)
    if isinstance(values.get("beliefs"), list):
        values = {**values, "beliefs": [_believed(belief, values, where) for belief in values["beliefs"]]}
    return _absolute(_typed(parse(Study, {"name": name, **values}, where=where), where))


def _believed(belief: Any, values: Mapping[str, Any], where: str) -> Any:
    """A belief that names a record as one of that record's values, as far as they are searched."""
    if not isinstance(belief, dict) or "record" not in belief:
        return belief
    if "values" in belief or not isinstance(belief["record"], str):
        raise SpecError(f"{where}: a belief has either values or the file of a record")
    try:
        record = read(Path(belief["record"]))
    except ValueError as error:
        raise SpecError(f"{where}: beliefs: {error}") from None
    if record.method != values.get("method"):
        raise SpecError(f"{where}: beliefs: {belief['record']} is a record of {record.method}: name one of this method")
    searched = values.get("search") or {}
    held = {name: value for name, value in record.hyperparameters.items() if name in searched}
    rest = {name: value for name, value in belief.items() if name != "record"}
    return {"source": f"{record.study} on {record.benchmark}: {record.trial}", **rest, "values": held}


def _typed(study: Study, where: str) -> Study:
    """The study with ranges of the numbers that their fields take."""
    own = methods.fields(study.method)
    search = {}
    for name, space in study.search.items():
        annotation = own[name].type if name in own else TrainConfig.model_fields[name].annotation
        try:
            search[name] = space.of_type(number_type(annotation))
        except SpecError as error:
            raise SpecError(f"{where}: search.{name} {error}") from None
        believed = (belief.values.get(name) for belief in study.beliefs)
        if number_type(annotation) is int and any(isinstance(value, float) for value in believed):
            raise SpecError(f"{where}: beliefs: {name} is a whole number: write it without a point")
    return study.model_copy(update={"search": search})


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
        if study.scheduler == "asha":
            _check_rungs(study, trial, where)
        if study.candidates == "every":
            _check_candidates(study, trial, where)


def _check_rungs(study: Study, trial: Trial, where: str) -> None:
    """Refuse to stop trials early that cannot be compared on the way."""
    train = trial.train
    if study.protocol == "paper":
        raise SpecError(f"{where}: scheduler asha needs validation readings, and protocol paper has none")
    if searched := [name for name in ("steps", "epochs", "budget", "val_every") if name in study.search]:
        raise SpecError(
            f"{where}: scheduler asha compares trials at equal steps: fix {searched[0]} instead of searching it"
        )
    if not train.val_every:
        raise SpecError(f"{where}: scheduler asha needs readings to compare; set train.val_every")
    if train.epochs is not None:
        raise SpecError(f"{where}: scheduler asha needs to know the last step; set train.steps instead of epochs")
    if train.val_every >= train.steps:
        raise SpecError(
            f"{where}: scheduler asha needs readings before the last step: val_every = {train.val_every} must be below "
            f"steps = {train.steps}"
        )


def _check_candidates(study: Study, trial: Trial, where: str) -> None:
    """Refuse readings on the way of which no shorter training would end with the model that was read."""
    train = trial.train
    if searched := [name for name in ("steps", "epochs", "budget", "warmup_steps", "schedule") if name in study.search]:
        raise SpecError(f"{where}: candidates = every chooses the number of steps itself: do not search {searched[0]}")
    if train.schedule != "none":
        raise SpecError(
            f"{where}: candidates = every takes readings on the way for what a shorter training ends with, which needs "
            f"a constant learning rate: set train.schedule=none"
        )
    if not trial.reads_on_the_way:
        missing = "protocol clean" if train.val_every else "train.val_every"
        raise SpecError(f"{where}: candidates = every needs readings on the way: set {missing}")
    if train.epochs is not None:
        raise SpecError(f"{where}: candidates = every counts steps: set train.steps instead of epochs")


def _check_start(trial: Trial) -> None:
    """Refuse a trial to start from that does not exist, kept nothing, or had another backbone or other classes."""
    if trial.train.start_from is None:
        return
    record, weights = trained(Path(trial.train.start_from))
    where, own = f"start_from = {trial.train.start_from}", trial.benchmark
    if "benchmark" not in record.config:
        raise SpecError(f"{where} does not say which benchmark it was trained on: choose another trial")
    other = Benchmark.model_validate_json(json.dumps(record.config["benchmark"]))
    if other.backbone != own.backbone:
        raise SpecError(f"{where} has the backbone {other.backbone}, not {own.backbone}")
    if other.head_norm != own.head_norm:
        had, has = (str(one.head_norm).lower() for one in (other, own))
        raise SpecError(f"{where} was trained with head_norm = {had}: train with that instead of head_norm = {has}")
    if other.target.name == own.target.name and ":" not in own.target.name:
        return  # nothing has to be read to know that the classes are the same
    classes = data.num_classes(own.target.name, bad_images=own.target.bad_images)
    if (known := _classes(weights)) != classes:
        raise SpecError(
            f"{where} has a head for {known} classes, of {other.target.name}, and {own.target.name} has {classes}: "
            f"choose a trial on a target with as many"
        )


def _classes(weights: Path) -> int:
    """How many classes a checkpoint's head knows."""
    try:
        with safe_open(weights, framework="numpy") as file:
            return int(file.get_slice("head.weight").get_shape()[0])
    except (OSError, SafetensorError) as error:
        raise SpecError(f"the checkpoint {weights} cannot be read: {error}") from None


def corners(study: Study, benchmark: Benchmark) -> list[Trial]:
    """Trials that stand for the whole space.

    One for every combination of the fields' corners (see :attr:`bench.spec.Space.corners`), if there are at most
    POINTS; otherwise the combinations of both ends of every field, if these are not too many, and so many others that
    every value of every field and every row is among them.

    Raises:
        SpecError: a trial cannot be made, or the leaderboard would have more than POINTS rows.
    """
    return [
        make_trial(
            study, benchmark, values, launch=study.name, label=f"corner-{index}", seed=study.seeds[0], phase="search"
        )
        for index, values in enumerate(_combinations(study))
    ]


def _combinations(study: Study) -> Iterator[dict[str, Value]]:
    spaces = {name: space.corners for name, space in study.search.items()}
    if math.prod(map(len, spaces.values())) <= POINTS:
        yield from (dict(zip(spaces, values, strict=True)) for values in itertools.product(*spaces.values()))
        return
    if study.row_count > POINTS:
        raise SpecError(
            f"study {study.name!r}: {study.row_count:,} rows are too many: at most {POINTS:,} can be compared"
        )
    ends = {name: tuple(dict.fromkeys((values[0], values[-1]))) for name, values in spaces.items()}
    extremes = math.prod(map(len, ends.values()))
    if extremes <= POINTS // 2:
        yield from (dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values()))
    rows, draw = study.row_values, random.Random(0)
    left = POINTS - extremes if extremes <= POINTS // 2 else POINTS
    for index in range(max(left, len(rows), *map(len, spaces.values()))):
        drawn = {name: values[index] if index < len(values) else draw.choice(values) for name, values in spaces.items()}
        yield {**drawn, **rows[index % len(rows)]}
