"""The MLflow runs of one launch: a parent, and a child for every trial.

Every method may be called again after it has failed, and then writes what is missing. Runs that were made though the
answer got lost are looked up after :meth:`Runs.doubt`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.folder import LaunchFolder
from bench.readings import flat, scores
from bench.records import Record
from bench.reporting.leaderboard import for_mlflow
from bench.reporting.mlflow_content import (
    FOLDER,
    INTERRUPTED,
    LAUNCH,
    NOTE,
    PARENT,
    STATUS,
    DataSet,
    compared_fields,
    data_sets,
    experiment_tags,
    launch_note,
    launch_parameters,
    source_tags,
    trial_note,
    trial_parameters,
    user_tags,
)
from bench.reporting.mlflow_logged import Models, as_inputs, data_set_of, is_model, outputs
from bench.reporting.mlflow_points import Measured, Point, agrees, rounded, shown, write
from bench.reporting.mlflow_store import CHECKPOINTS, RECORD, experiment_id, open_store
from bench.reporting.mlflow_variants import Trained, Variants
from bench.reporting.rows import Leaderboard, Spread
from bench.spec import row_label

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 100
"""Runs are read in portions of so many: MLflow gives each with all of its parameters, tags and last metrics."""

COSTS = ("trainable_parameters", "train_seconds", "eval_seconds", "images_per_second")
"""A record says these of a trial beside its scores."""

TABLES = "mlflow.loggedArtifacts"
"""MLflow's tag of a run that holds tables."""

TABLE = "leaderboard.json"

CONFIGURATION = "configuration.yaml"
"""All that a launch was asked for, among its artifacts."""

RUN_STATUS = {"ok": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

REFUSED = re.compile(r"[^\w.\- :]|^\.(?=\.)|_(?=x[0-9a-f]+_)")
"""Of a name what MLflow takes in no key, and an underscore that would be read as the beginning of such a character."""

QUOTED = set("'\"`")
"""Characters that end a text in MLflow's filters."""

LONGEST_KEY = 250
"""Characters that MLflow takes in a key."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as MLflow takes them: ``{"train": {"lr": 0.1}}`` becomes ``{"train.lr": "0.1"}``.

    A study may be called what MLflow takes in no key: such characters are written by their code, ``lin (copy)`` as
    ``lin _x28_copy_x29_``. What is too long then ends in a digest.
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = prefix + REFUSED.sub(lambda found: f"_x{ord(found[0]):x}_", name)
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        else:
            flat[_shortened(key)] = str(value)
    return flat


def _shortened(key: str) -> str:
    if len(key) <= LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return f"{key[: LONGEST_KEY - len(digest) - 1]}-{digest}"


@dataclass(frozen=True)
class Launch:
    """What a parent run says of its launch. ``tags`` hold the launch's id under :data:`LAUNCH`.

    ``asked`` is all that it was asked for: the ``benchmark``, and the ``studies`` by name, as they are dumped. It is an
    artifact, and the few things to know of it are parameters.
    """

    uri: str
    experiment: str
    run_name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    folder: LaunchFolder | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> tuple[str, ...]:
        """Fields of the recipe that trials show, see :func:`bench.reporting.mlflow_content.compared_fields`."""
        return compared_fields(self.asked.get("studies", {}))


@dataclass(frozen=True)
class About:
    """What a child run says of its trial before it has a result; ``begun`` in milliseconds since 1970."""

    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    begun: int

    @classmethod
    def of(cls, record: Record, compared: Sequence[str] = ()) -> About:
        """What it said of the trial of a record.

        Args:
            compared: see :attr:`Launch.compared`.
        """
        train = record.config.get("train", {})
        parameters = trial_parameters(record.method, record.hyperparameters, train, record.seed, compared)
        tags = {name: getattr(record, name) for name in ("method", "benchmark", "study", "phase")}
        tags |= {"row": row_label(record.method, record.row), **source_tags(record.provenance)}
        took = (record.train_seconds or 0.0) + (record.eval_seconds or 0.0)
        return cls(flatten(parameters), tags, ended(record) - int(1000 * took))


def ended(record: Record) -> int:
    """When a trial ended, in milliseconds since 1970: now, if its record does not say."""
    try:
        return int(1000 * datetime.fromisoformat(record.provenance["time"]).timestamp())
    except (KeyError, TypeError, ValueError):  # a record from elsewhere
        return int(1000 * time.time())


def final(record: Record) -> dict[str, float]:
    """The metrics of a trial that has ended."""
    values = {**flat(record.scores, record.phase), **{name: getattr(record, name) for name in COSTS}}
    return {name: rounded(value) for name, value in values.items() if value is not None}


def on_the_way(record: Record, now: int) -> list[Point]:
    """The points of a trial's curves that its record holds: what was read before the last step."""
    own = [reading for reading in record.readings if reading.variant is None]
    before = [reading for reading in own if reading.step == 0 and reading.split == "val"]
    points: list[Point] = []
    for step in sorted({reading.step for reading in own if 0 < reading.step < record.measured_step}):
        read = flat(scores([*before, *(reading for reading in own if reading.step == step)]), "search")
        points += [(name, shown(name, value), now, step) for name, value in read.items()]
    return points


@dataclass
class _Children:
    """Ids of child runs by trial: of those that are being written, and of those that are complete."""

    open: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """What is kept of a run that was looked up."""

    id: str
    ended: bool
    begun: int

    @classmethod
    def of(cls, run: Run) -> _Found:
        return cls(run.info.run_id, _has_ended(run), run.info.start_time)


class Runs:
    """The runs of one launch. A launch that has a parent run in the store already is gone on with.

    Args of the constructor:
        launch: whose they are.
        keep: whether child runs of trials that have not ended stay; else they are made again.
    """

    def __init__(self, launch: Launch, *, keep: bool = False) -> None:
        self._client = open_store(launch.uri)
        self._experiment = experiment_id(self._client, launch.uri, launch.experiment)
        self._launch, self._models = launch, Models(self._client, self._experiment)
        self._variants = Variants(self._client, self._experiment, self._models)
        self._seen: dict[tuple[str, str], DataSet] = {}  # by name and digest
        self._changed, self.began = False, 0  # when the parent run began, in milliseconds since 1970
        self._children = _Children()
        self._undescribed: dict[str, Mapping[str, str]] = {}  # parameters that child runs lack, by id
        self._described: set[str] = set()  # ids of child runs that lack none
        self._places: dict[str, str] = {}  # where the files of child runs go, by id
        self._made: set[str] = set()  # trials whose runs were made here, and not by an earlier try of the launch
        self._asked: set[str] = set()  # trials whose runs the store was asked for, and has not answered
        self._doubtful: set[str] = set()  # trials of which the store may hold something else than is known here
        place = launch.folder and f"{platform.node()}:{os.path.realpath(launch.folder.path)}"
        tags = {**launch.tags, **({FOLDER: place} if place else {})}
        self._describe_experiment()
        self.parent = self._parent(launch, tags)
        self._keep_configuration()
        self._recall(keep=keep)
        if place:
            self._end_dead(place)

    def _parent(self, launch: Launch, tags: Mapping[str, str]) -> str:
        found = [run for run in self._search(f"tags.{LAUNCH} = '{launch.tags[LAUNCH]}'") if PARENT not in run.data.tags]
        if found:
            run = min(found, key=lambda run: (run.info.start_time, run.info.run_id))
        else:
            said = {**tags, **user_tags(), STATUS: "running"}
            run = self._client.create_run(self._experiment, run_name=launch.run_name, tags=said)
        run_id: str = run.info.run_id
        self.began = int(run.info.start_time)
        for further in found:  # made twice, since an answer got lost
            if further.info.run_id != run_id:
                self._client.delete_run(further.info.run_id)
        asked = launch_parameters(launch.asked.get("benchmark", {}), launch.asked.get("studies", {}))
        parameters = _but({**flatten(asked), **launch.parameters}, run.data.params)
        missing = _but(tags, run.data.tags)
        self._changed = bool(found) and bool(parameters or missing)
        write(self._client, run_id, parameters, tags=missing)
        return run_id

    def _describe_experiment(self) -> None:
        """Let the experiment say what it is and how to look at it; what somebody has said of it stays."""
        there = self._client.get_experiment(self._experiment).tags
        for name, value in _but(experiment_tags(self._experiment), there).items():
            self._client.set_experiment_tag(self._experiment, name, value)

    def _keep_configuration(self) -> None:
        """Attach all that the launch was asked for to the parent run."""
        if not self._launch.asked or CONFIGURATION in self.artifacts(self.parent):
            return
        text = yaml.safe_dump(dict(self._launch.asked), sort_keys=False, allow_unicode=True)
        self._client.log_text(self.parent, text, CONFIGURATION)

    @property
    def changed(self) -> bool:
        """Whether a parent run that was there lacked something that it has now."""
        return self._changed

    def about(self, record: Record) -> About:
        """What the run of a record's trial says of it."""
        return About.of(record, self._launch.compared)

    def _search(self, wanted: str) -> Iterator[Run]:
        token = None
        while token != "":
            page = self._client.search_runs([self._experiment], wanted, page_token=token, max_results=PAGE)
            yield from page
            token = page.token or ""

    def go_on(self) -> None:
        """Say that the launch runs."""
        self._client.update_run(self.parent, status="RUNNING")
        self._client.set_tag(self.parent, STATUS, "running")

    def read(self, run_id: str) -> Run:
        """A run as it stands in the store."""
        return self._client.get_run(run_id)

    def children(self) -> Iterator[Run]:
        """The child runs as they stand in the store, a portion at a time."""
        return self._search(f"tags.`{PARENT}` = '{self.parent}'")

    def _children_of(self, trial: str) -> Iterator[Run]:
        """The child runs of one trial: one, or several if an answer got lost."""
        named = f"attributes.run_name = '{trial}'"
        if QUOTED & set(trial):  # the filter has no way to write these: any character may stand in their place
            named = f"attributes.run_name LIKE '{''.join('_' if one in QUOTED else one for one in trial)}'"
        found = self._search(f"tags.`{PARENT}` = '{self.parent}' and {named}")
        return (run for run in found if run.info.run_name == trial)

    def _recall(self, *, keep: bool) -> None:
        """Look up which child runs there are; of two of one trial one is deleted.

        Args:
            keep: whether those of trials that have not ended stay, too.
        """
        found: dict[str, list[_Found]] = {}
        for run in self.children():
            found.setdefault(str(run.info.run_name), []).append(_Found.of(run))
        for trial, runs in found.items():
            self._settle(trial, runs, keep=keep)

    def doubt(self) -> None:
        """Something has failed, and may have been done all the same: look up what was asked for, before it is used."""
        self._doubtful |= {*self._asked, *self._children.open}

    def _make_sure(self, trial: str) -> None:
        if trial in self._doubtful:
            self._settle(trial, [_Found.of(run) for run in self._children_of(trial)], keep=True)
            self._doubtful.discard(trial)
            self._asked.discard(trial)

    def _settle(self, trial: str, runs: Sequence[_Found], *, keep: bool) -> None:
        """Take one of a trial's runs for its own, and delete the others."""
        ours = self._children.open.pop(trial, None)
        self._children.written.pop(trial, None)
        chosen = min(runs, key=lambda run: (run.id != ours, not run.ended, run.begun, run.id), default=None)
        if chosen is not None and not (keep or chosen.ended):
            chosen = None
        for run in runs:
            if run is not chosen:
                self._delete(run.id)
        if chosen is not None:
            (self._children.written if chosen.ended else self._children.open)[trial] = chosen.id

    def _end_dead(self, place: str) -> None:
        """End what an earlier launch in the same folder has left running: it is dead, since the folder is ours."""
        for run in list(self._search("attributes.status = 'RUNNING'")):  # what is ended moves the portions
            if run.data.tags.get(FOLDER) == place and run.info.run_id != self.parent:
                of_it = f"tags.`{PARENT}` = '{run.info.run_id}' and attributes.status = 'RUNNING'"
                for child in list(self._search(of_it)):
                    self._interrupt(child.info.run_id)
                self._end(run.info.run_id, INTERRUPTED, "KILLED")

    def is_written(self, trial: str) -> bool:
        """Whether a trial's run is complete."""
        self._make_sure(trial)
        return trial in self._children.written

    def lost(self, trials: Iterable[str]) -> list[str]:
        """Those trials whose runs were written, and do not stand in the store as ended ones."""
        there = {run.info.run_id for run in self.children() if _has_ended(run)}
        return [trial for trial in trials if self._children.written.get(trial) not in there]

    def start(self, trial: str, about: About) -> None:
        """Make a trial's run, in place of an earlier try's that has ended; any other one goes on."""
        self._make_sure(trial)
        if trial in self._children.written and trial not in self._made:
            self._delete(self._children.written[trial])
            del self._children.written[trial]
        self._make(trial, about)

    def drop(self, trial: str) -> None:
        """Delete a trial's run that is being written, if there is one."""
        self._make_sure(trial)
        if trial in self._children.open:
            self._delete(self._children.open[trial])
            del self._children.open[trial]

    def _delete(self, run_id: str) -> None:
        """Delete a trial's run with what belongs to it."""
        self._variants.delete(run_id)
        self._models.delete(run_id)
        self._client.delete_run(run_id)

    def _make(self, trial: str, about: About) -> str:
        """The id of a trial's run, which is made if need be; its parameters are written with the first points."""
        self._make_sure(trial)
        run_id = self._children.open.get(trial) or self._children.written.get(trial)
        if run_id is None:
            self._made.add(trial)
            self._asked.add(trial)
            tags = {**about.tags, **user_tags(), STATUS: "running", PARENT: self.parent}
            run = self._client.create_run(self._experiment, start_time=about.begun, tags=tags, run_name=trial)
            run_id = self._children.open[trial] = str(run.info.run_id)
            self._asked.discard(trial)
            self._undescribed[run_id], self._places[run_id] = about.parameters, run.info.artifact_uri
        elif run_id not in self._described | set(self._undescribed):
            self._undescribed[run_id] = _but(about.parameters, self.read(run_id).data.params)
        return run_id

    def log(
        self, trial: str, about: About, points: Sequence[Point | Measured], tags: Mapping[str, str] | None = None
    ) -> None:
        """Add points to a trial's curves, with the parameters that its run lacks, and set tags: in as few requests as
        MLflow allows, each of which costs it milliseconds."""
        run_id = self._make(trial, about)
        write(self._client, run_id, self._undescribed.get(run_id, {}), points, tags or {})
        self._undescribed.pop(run_id, None)
        self._described.add(run_id)

    def log_of_launch(self, points: Sequence[Point]) -> None:
        """Add points to curves of the parent run."""
        write(self._client, self.parent, {}, points)

    def is_described(self, trial: str) -> bool:
        """Whether the run of a trial that is being written has its parameters."""
        return self._children.open.get(trial) in self._described

    def end(
        self,
        record: Record,
        about: About,
        checkpoint: Path | None,
        now: int,
        *,
        pending: Sequence[Point] = (),
        there: Mapping[str, float] | None = None,
    ) -> None:
        """Write the final scores, the record and the file of trained tensors if there is one; end the run.

        Args:
            pending: points of its curves that are not written yet.
            there: scores that need not be written, since the run has them.
        """
        self.note(record)
        run_id = self._make(record.trial, about)
        error = {"error": record.error[:500]} if record.error else {}
        told = about.tags if record.trial in self._made else {}
        tags = {**_but(self.about(record).tags, told), NOTE: trial_note(record), **error}
        model = self._make_model(run_id, record, about) if is_model(record) else None
        points = self._final(run_id, record, now, there or {}, model)
        self.log(record.trial, about, [*pending, *points], {**tags, STATUS: record.status})
        if inputs := as_inputs(data_sets(record)):
            self._client.log_inputs(run_id, inputs)
        self._keep_files(run_id, record, checkpoint)
        if model is not None:
            self._models.put_out(run_id, [model], record.measured_step)
            self._models.ready(model)
            self._variants.write(Trained(run_id, about.parameters, about.tags, self._launch.tags[LAUNCH], now), record)
        self._client.set_terminated(run_id, RUN_STATUS[record.status], end_time=now)  # only now it counts as written
        self._children.open.pop(record.trial, None)
        self._children.written[record.trial] = run_id
        self._described.discard(run_id)

    def note(self, record: Record) -> None:
        """Take up which data sets a trial of the launch has seen: they are the parent's inputs."""
        self._seen |= {(one.name, one.digest): one for one in data_sets(record)}

    def _make_model(self, run_id: str, record: Record, about: About) -> str:
        tags = {**about.tags, NOTE: trial_note(record), LAUNCH: self._launch.tags[LAUNCH]}
        return self._models.make(run_id, record.trial, about.parameters, tags)

    def _final(
        self, run_id: str, record: Record, now: int, there: Mapping[str, float], model: str | None
    ) -> list[Point | Measured]:
        """The points of the final scores that a run or its model lacks."""
        on, points = data_set_of(record), list[Point | Measured]()
        for name, value in final(record).items():
            known = agrees(there.get(name), value)
            if model is not None and name in record.scores:
                own = there[name] if known else value
                time = self._time_of(run_id, name, own, now) if known else now
                points.append((name, own, time, record.steps, model, *on[name]))
            elif not known:
                points.append((name, value, now, record.steps))
        return points

    def _time_of(self, run_id: str, name: str, value: float, otherwise: int) -> int:
        """When a score of a run was written: with another time it would have it twice."""
        points = self._client.get_metric_history(run_id, name)
        return max((int(point.timestamp) for point in points if point.value == value), default=otherwise)

    def _keep_files(self, run_id: str, record: Record, checkpoint: Path | None) -> None:
        """As the client's ``log_artifact`` does, which would first read the whole run to learn where its files go."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = self._places.pop(run_id, None) or self.read(run_id).info.artifact_uri
        files = get_artifact_repository(place, tracking_uri=self._client.tracking_uri)
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder, RECORD)
            text.write_text(record.model_dump_json(indent=2), encoding="utf-8")
            files.log_artifact(str(text))
        if checkpoint is not None:
            files.log_artifact(str(checkpoint), CHECKPOINTS)

    def _end(self, run_id: str, said: str, status: str, now: int | None = None) -> None:
        self._client.set_tag(run_id, STATUS, said)
        self._client.set_terminated(run_id, status, end_time=now)

    def is_complete(self, run: Run, record: Record, checkpoint: Path | None) -> bool:
        """Whether a child run holds all that :meth:`end` writes."""
        metrics, tags, about = run.data.metrics, run.data.tags, self.about(record)
        held = {artifact.path for artifact in self._client.list_artifacts(run.info.run_id)}
        tensors = f"{CHECKPOINTS}/{checkpoint.name}" if checkpoint is not None else None
        return (
            tags.get(STATUS) == record.status
            and run.info.status == RUN_STATUS[record.status]
            and set(about.parameters) <= set(run.data.params)
            and {*about.tags, NOTE} <= set(tags)
            and _holds(run, data_sets(record))
            and all(agrees(metrics.get(name), value) for name, value in final(record).items())
            and RECORD in held
            and (tensors is None or tensors in self.artifacts(run.info.run_id, CHECKPOINTS))
            and (not is_model(record) or self._has_model(run.info.run_id, record))
        )

    def _has_model(self, run_id: str, record: Record) -> bool:
        scores = {name: value for name, value in record.scores.items() if value is not None}
        return (
            self._models.is_complete(run_id, scores, data_set_of(record))
            and bool(outputs(self._client, run_id))
            and self._variants.is_complete(run_id, record)
        )

    def is_concluded(self, parent: Run, folder: LaunchFolder, board: Leaderboard | None) -> bool:
        """Whether the parent run holds all that :meth:`finish` writes but how the launch has ended."""
        if not _holds(parent, self._seen.values()):
            return False
        if board is None:
            return True
        files = {TABLE, *(path.name for path in attached(folder))}
        made = {str(output.model_id) for output in outputs(self._client, self.parent)}
        bare = folder.table.read_text(encoding="utf-8")  # all that version 0.1 said
        noted = parent.data.tags.get(NOTE) not in (None, bare)
        return noted and files <= self.artifacts(self.parent) and made >= set(self._best(board))

    def artifacts(self, run_id: str, place: str | None = None) -> set[str]:
        """The paths of what a run holds in a folder."""
        return {artifact.path for artifact in self._client.list_artifacts(run_id, place)}

    def finish(self, folder: LaunchFolder, board: Leaderboard | None, status: str) -> None:
        """Attach the leaderboard of ``folder`` to the parent run and end it with an MLflow run status."""
        if inputs := as_inputs([*self._seen.values()]):
            self._client.log_inputs(self.parent, inputs)
        self._remove_orphans()
        if board is not None:
            self._attach(folder, board)
            self._models.put_out(self.parent, self._best(board), 0)
        said = {"FINISHED": "ok", "FAILED": "failed", "KILLED": INTERRUPTED}[status]
        self._end(self.parent, said, status)

    def _remove_orphans(self) -> None:
        """Delete models whose runs are gone: they were made twice, or again."""
        runs = set(self._children.written.values())
        for model in self._models.of_launch(self._launch.tags[LAUNCH]):
            if self._variants.owner(model) not in runs:
                self._models.remove(model.model_id)

    def _best(self, board: Leaderboard) -> list[str]:
        """The models of the best row, one a seed."""
        best = next((row for row in board.rows if row.best), None)
        if best is None:
            return []
        runs = [self._children.written[trial] for trial in best.trials if trial in self._children.written]
        models = [
            self._models.of(run_id) if best.variant is None else self._variants.models_of(run_id, best.variant)
            for run_id in runs
        ]
        return [str(model.model_id) for own in models for model in own]

    def _attach(self, folder: LaunchFolder, board: Leaderboard) -> None:
        text = for_mlflow(board).to_json(orient="split", index=False, date_format="iso")
        self._client.log_text(self.parent, text, TABLE)  # log_table would add the rows to those of an earlier try
        self._client.set_tag(self.parent, TABLES, json.dumps([{"path": TABLE, "type": "table"}]))
        for path in attached(folder):
            self._client.log_artifact(self.parent, str(path))
        held = f"#/experiments/{self._experiment}/runs/{self.parent}/artifacts/{folder.page.name}"
        note = launch_note(board, folder.table.read_text(encoding="utf-8"), held if folder.page.is_file() else None)
        self._client.set_tag(self.parent, NOTE, note)
        self._log_headline(board)

    def _log_headline(self, board: Leaderboard) -> None:
        """The best row's numbers on the parent, so that launches can be compared in MLflow's run table."""
        best = next((row for row in board.rows if row.best), None)
        if best is None:
            return
        there = self.read(self.parent).data.metrics
        for name in ("target_accuracy", "source_accuracy", "forgetting", "mean"):
            spread: Spread = getattr(best, name)
            if not agrees(there.get(f"best_{name}"), spread.mean):
                self._client.log_metric(self.parent, f"best_{name}", rounded(spread.mean))
        self._client.set_tag(self.parent, "best", best.label)

    def interrupt(self, *, parent: bool = True) -> None:
        """End whatever is still open: the launch was interrupted."""
        for trial in [*self._children.open, *self._asked]:
            self._make_sure(trial)
            if trial in self._children.open:
                self._interrupt(self._children.open[trial])
                del self._children.open[trial]
        if parent:
            self._end(self.parent, INTERRUPTED, "KILLED")

    def _interrupt(self, run_id: str) -> None:
        """End a trial's run that is open, with what of its variants is."""
        for run in [run for run in self._variants.of(run_id) if run.info.status == "RUNNING"]:
            self._end(run.info.run_id, INTERRUPTED, "KILLED")
        self._end(run_id, INTERRUPTED, "KILLED")


def _holds(run: Run, wanted: Iterable[DataSet]) -> bool:
    """Whether data sets are among the inputs of a run."""
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    held = {(one.dataset.name, one.dataset.digest) for one in inputs}
    return held >= {(one.name, one.digest) for one in wanted}


def _but(values: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """Those values whose names are not there."""
    return {name: value for name, value in values.items() if name not in there}


def attached(folder: LaunchFolder) -> list[Path]:
    """The files of a leaderboard that a parent run holds.

    There are curves where something was read on the way, and a launch of an earlier version has left no page.
    """
    others = [path for path in (folder.page, folder.curves, folder.curves_csv) if path.is_file()]
    return [folder.table, folder.table_csv, folder.picture, *others]


def _has_ended(run: Run) -> bool:
    said = run.data.tags.get(STATUS)
    return said in RUN_STATUS and run.info.status == RUN_STATUS[said]
