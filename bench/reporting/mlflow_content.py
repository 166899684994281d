"""What MLflow shows of trials and launches beside their numbers: data sets, source, notes, parameters, views.

All of it is made of records and of what a launch was asked for, so that it can be made again at any time.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import cache
from bench.readings import SCORES
from bench.records import Record
from bench.reporting.answers import answers
from bench.reporting.markup import one_decimal
from bench.reporting.rows import Leaderboard
from bench.spec import TrainConfig, Value, readable, row_label

NOTE = "mlflow.note.content"
USER = "mlflow.user"
SOURCE_NAME, SOURCE_TYPE = "mlflow.source.name", "mlflow.source.type"
COMMIT, DIRTY = "mlflow.source.git.commit", "mlflow.source.git.dirty"
CONTEXT = "mlflow.data.context"
"""MLflow's tags, which its pages know: the last one of an input, all others of a run."""

PARENT = "mlflow.parentRunId"
"""MLflow's tag of a run that is nested in another."""

LAUNCH, FOLDER, STATUS = "launch", "folder", "status"
"""Our tags: a launch's id and where it writes, on the parent; how it ended, on every run."""

INTERRUPTED = "interrupted"
"""The status of a run whose launch was ended early."""

VIEW = "mlflow.sharedViewState."
"""MLflow's tag of an experiment that holds a view of its runs; the view's key follows."""

LONGEST_NOTE = 8000
"""Characters that MLflow takes in a tag."""

SHORT_DIGEST = 8
"""Hexadecimal digits of a data set's digest; MLflow takes 36."""


@dataclass(frozen=True)
class DataSet:
    """A data set as MLflow knows it: equal digests mean equal images in equal roles.

    ``context`` is ``target`` or ``source``; ``kind`` and ``place`` say where it comes from (the latter as JSON), and
    ``profile``, as JSON, how many images of which split.
    """

    name: str
    digest: str
    context: str
    kind: str
    place: str
    profile: str


def data_sets(record: Record) -> list[DataSet]:
    """Target and source of a trial, as far as its record says which images it has seen.

    It does not if the trial failed, or was recorded by version 0.1.
    """
    return list(_data_sets(record))


def _data_sets(record: Record) -> Iterator[DataSet]:
    images = record.details.get("images", {})
    for role in ("target", "source"):
        name = record.config.get("benchmark", {}).get(role, {}).get("name")
        splits = {
            split.removeprefix(f"{role}_"): (text, images.get(split))
            for split, text in images.get("identity", {}).items()
            if split.startswith(f"{role}_")
        }
        if name is None or not splits:
            continue
        kind, _, folder = name.partition(":")
        told = {"uri": folder} if folder else {"tags": {SOURCE_NAME: f"bench.data: {name}"}}
        sizes = {split: count for split, (_, count) in splits.items()}
        yield DataSet(
            name=f"{kind}:{folder.rstrip('/').rpartition('/')[2]}" if folder else kind,
            digest=cache.digest([f"{split} {text}" for split, (text, _) in sorted(splits.items())])[:SHORT_DIGEST],
            context=role,
            kind="local" if folder else "code",
            place=json.dumps(told),
            profile=json.dumps({"num_rows": sum(filter(None, sizes.values())), "splits": sizes}),
        )


DATA_OF = {
    "target_accuracy": "target",
    "source_accuracy": "source",
    "source_accuracy_before": "source",
    "forgetting": "source",
}
"""On which data set a score is measured; the mean is on none."""


def source_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What ran: the command of all launches, and the commit of the code if it is known."""
    commit, dirty = provenance.get("commit"), provenance.get("dirty")
    known = {COMMIT: str(commit), DIRTY: str(bool(dirty)).lower()} if commit else {}
    return {SOURCE_NAME: "launch.py", SOURCE_TYPE: "LOCAL", **known}


def user_tags() -> dict[str, str]:
    """Who writes; nobody where the system has no name for the user, as in some containers."""
    try:
        return {USER: getpass.getuser()}
    except (ImportError, KeyError, OSError):
        return {}


def trial_parameters(
    method: str, hyperparameters: Mapping[str, Value], train: Mapping[str, Any], seed: int, compared: Sequence[str]
) -> dict[str, Any]:
    """What tells a trial from the others of its launch; all else stands in its record.

    Args:
        train: the whole recipe.
        compared: see :func:`compared_fields`.
    """
    others = {name: train[name] for name in compared if name not in hyperparameters and name in train}
    return {"method": method, **hyperparameters, **others, "seed": seed}


def compared_fields(studies: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Fields of the recipe in which the studies of a launch differ, be it that one of them searches it.

    Args:
        studies: as they are dumped, by name.
    """
    given = [
        {**study.get("train", {}), **study.get("fixed", {}), **study.get("search", {})} for study in studies.values()
    ]
    names = {name for one in given for name in one} & set(TrainConfig.model_fields)
    said = {name: {json.dumps(one.get(name), sort_keys=True) for one in given} for name in names}
    return tuple(sorted(name for name, values in said.items() if len(values) > 1))


def launch_parameters(benchmark: Mapping[str, Any], studies: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The few things to know of a launch; all that it was asked for is an artifact of its run.

    Args:
        benchmark: as it is dumped.
        studies: as they are dumped, by name.
    """
    every = studies.values()
    parts = {part: benchmark[part].get("name") for part in ("backbone", "source", "target") if part in benchmark}
    told: dict[str, Sequence[Any]] = {
        "methods": [study["method"] for study in every if "method" in study],
        "searched": sorted({name for study in every for name in study.get("search", {})}),
        "objective": [_text(study["objective"]) for study in every if "objective" in study],
        "search_trials": [study["trials"] for study in every if "trials" in study],
        "seeds": [readable(study["seeds"]) for study in every if "seeds" in study],
        "searches": [repeats for study in every if (repeats := study.get("repeats", 1)) != 1],
    }
    shown = {name: ", ".join(dict.fromkeys(map(str, values))) for name, values in told.items()}
    return {name: str(value) for name, value in {**parts, **shown}.items() if value}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def trial_note(record: Record, variant: str | None = None) -> str:
    """A trial's result in one sentence; that of a variant if one is named."""
    split = "validation" if record.phase == "search" else "test"
    named = " ".join(filter(None, [row_label(record.method, record.row), variant]))
    about = f"{named}, seed {record.seed}"
    scores: dict[str, float | None] = {**dict.fromkeys(SCORES), **record.scores_of(variant)}
    if record.status == "failed" or scores["target_accuracy"] is None or scores["source_accuracy"] is None:
        return f"{about}: {record.status}{': ' if record.error else ''}{(record.error or '')[:500]}"
    forgotten = scores["forgetting"]
    lost = "" if forgotten is None else f" ({one_decimal(forgotten)} points forgotten)"
    return (
        f"{about}, on {split} data: **{scores['target_accuracy']:.1f} %** on the target, "
        f"**{scores['source_accuracy']:.1f} %** on the source{lost}"
    )


def launch_note(board: Leaderboard, table: str, page: str | None) -> str:
    """The answer in words and the table, as Markdown.

    Args:
        table: the leaderboard as Markdown.
        page: address of the page that shows more, if there is one.
    """
    said = "\n".join(f"- {answer.text}" for answer in answers(board))
    more = "" if page is None else f"\n\n[The same with figures to point at]({page})"
    head = f"**Which row to take**\n\n{said}{more}"
    note = f"{head}\n\n{table}"
    if len(note) <= LONGEST_NOTE:
        return note
    rest = "\n\nThe rest is in `leaderboard.md` among the artifacts."
    return note[: LONGEST_NOTE - len(rest)].rpartition("\n")[0] + rest


@dataclass(frozen=True)
class View:
    """A view of an experiment's runs: which ones, in which order, with which columns."""

    name: str
    wanted: str
    order: str
    columns: Sequence[str]

    def tag(self) -> str:
        """As MLflow reads it; both as 3.17 keeps named views, and as versions before it keep shared ones."""
        state = {
            "searchFilter": self.wanted,
            "orderByKey": self.order,
            "orderByAsc": False,
            "selectedColumns": [*self.columns],
            "columnOrder": [*self.columns],
        }
        return json.dumps({"name": self.name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state), **state})


def _columns(kind: str, *names: str) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]


SCORE_COLUMNS = ("mean", "target_accuracy", "source_accuracy", "forgetting")

VIEWS: Mapping[str, View] = {
    "launches": View(
        "Launches",
        "tags.launch != ''",
        "attributes.start_time",
        [
            *_columns("metrics", *(f"best_{name}" for name in SCORE_COLUMNS)),
            *_columns("tags", "best"),
            *_columns("attributes", "Dataset", "Source"),
            *_columns("params", "methods", "search_trials", "seeds"),
        ],
    ),
    "confirmed": View(
        "Confirmed trials, best first",
        "tags.phase = 'confirm'",
        "metrics.`mean`",
        [
            *_columns("tags", "row"),
            *_columns("metrics", *SCORE_COLUMNS),
            *_columns("params", "lr", "seed"),
            *_columns("attributes", "Dataset", "Models"),
        ],
    ),
    "search": View(
        "Search trials, best first",
        "tags.phase = 'search'",
        "metrics.`val_mean`",
        [
            *_columns("tags", "row"),
            *_columns("metrics", *(f"val_{name}" for name in SCORE_COLUMNS)),
            *_columns("params", "lr"),
            *_columns("attributes", "Dataset"),
        ],
    ),
}
"""Views of the runs by their key in MLflow's addresses."""


def experiment_tags(experiment: str) -> dict[str, str]:
    """What an experiment says of itself, and its views.

    Args:
        experiment: its id.
    """
    links = [f"[{view.name}](#/experiments/{experiment}/runs?viewStateShareKey={key})" for key, view in VIEWS.items()]
    note = (
        "A run is a launch of the study: its table is in its description, its page `index.html` among its artifacts. "
        "Its trials are nested in it; confirmed ones are models, too. Views: " + ", ".join(links)
    )
    views = {f"{VIEW}{key}": view.tag() for key, view in VIEWS.items()}
    return {NOTE: note, "mlflow.experiment.primaryMetric.name": "mean", **views}
