"""Evidence: what stands behind the rows of a leaderboard, trial by trial, as tidy lines that know their row's label."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from bench.folder import LaunchFolder
from bench.readings import HEAD, KNN, Answers, scores
from bench.records import MOST, Record
from bench.reporting.rows import Leaderboard, Row, costs_of, row_key
from bench.spec import read_text

Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Bits = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

SHOWN_PROVENANCE = ("commit", "dirty", "platform", "host", "workers", "slots")
"""What is said of where the records come from, beside versions, hardware and time."""


@dataclass(frozen=True)
class Classes:
    """What the seeds of a row called the test images of each class.

    ``names`` of the classes; ``cells`` int64 ``[m, 3]`` over all seeds, in their order: class i, class j, and how many
    images of class i were called j, where there are any (a matrix of 10,000 classes would take 800 MB).
    """

    label: str
    names: Sequence[str]
    cells: Counts

    @property
    def n(self) -> Counts:
        """Images of each class, int64 ``[classes]``."""
        return self._sums(self.cells)

    @property
    def right(self) -> Counts:
        """Those of them that were called by their class, int64 ``[classes]``."""
        return self._sums(self.cells[self.cells[:, 0] == self.cells[:, 1]])

    def _sums(self, cells: Counts) -> Counts:
        sums = np.zeros(len(self.names), np.int64)
        np.add.at(sums, cells[:, 0], cells[:, 2])
        return sums


@dataclass(frozen=True)
class SourceClasses:
    """How many of the source's queries of each class were right before and after training, over all seeds of a row.

    ``names`` of the classes; int64 ``[classes]`` each: ``n`` queries, and those of them that were right.
    """

    label: str
    names: Sequence[str]
    n: Counts
    before: Counts
    after: Counts


@dataclass(frozen=True)
class Evidence:
    """The lines behind a leaderboard; a mapping by column each.

    ``seeds``: ``label``, ``trial``, ``seed``, ``status``, ``error``, whether its trained tensors are there (``kept``),
    the scores in percent, and the costs.
    ``searched``: ``key`` of the row (see :func:`bench.reporting.rows.row_key`), ``trial``, ``status``,
    ``hyperparameters``, and the scores on validation data. ``curves``: ``label``, ``trial``, ``step``, and the scores
    on validation data: means of the confirmed trials (``trial`` is None) where these were read on the way, else of the
    search trial whose configuration the row confirms. ``provenance``: ``field``, ``value``,
    and how many ``records`` say so. ``keys``: of the rows, by label. ``ranges``: what was searched, by method and name.
    """

    seeds: Sequence[Mapping[str, Any]]
    searched: Sequence[Mapping[str, Any]]
    curves: Sequence[Mapping[str, Any]]
    classes: Sequence[Classes]
    source_classes: Sequence[SourceClasses]
    provenance: Sequence[Mapping[str, Any]]
    keys: Mapping[str, str]
    ranges: Mapping[str, Mapping[str, Any]]


def gather(board: Leaderboard, records: Sequence[Record], folder: LaunchFolder | None = None) -> Evidence:
    """What stands behind a leaderboard.

    Args:
        records: those that the board was built from, search trials included; of others nothing is said.
        folder: where they lie; it says what was searched, and which trained tensors are there.
    """
    known = {record.trial: record for record in records}
    confirmed = {row.label: [known[trial] for trial in row.trials if trial in known] for row in board.rows}
    rows = [row for row in board.rows if confirmed[row.label]]
    of_source = [_source_classes(row, confirmed[row.label]) for row in rows]
    searched = sorted((record for record in records if record.phase == "search"), key=lambda record: record.trial)
    return Evidence(
        seeds=[_seed(row, record, folder) for row in rows for record in confirmed[row.label]],
        searched=[_searched(record) for record in searched],
        curves=[point for row in rows for point in _curve(row, confirmed[row.label][0], searched)],
        classes=[found for row in rows if (found := _classes(row, confirmed[row.label])) is not None],
        source_classes=[one for one in of_source if one is not None],
        provenance=_provenance(
            list({record.trial: record for group in confirmed.values() for record in group}.values())
        ),
        keys={row.label: row_key(confirmed[row.label][0]) for row in rows},
        ranges={} if folder is None else _ranges(folder),
    )


def _seed(row: Row, record: Record, folder: LaunchFolder | None) -> dict[str, Any]:
    return {
        "label": row.label,
        "trial": record.trial,
        "seed": record.seed,
        "status": record.status,
        "error": record.error,
        "kept": folder is not None and folder.checkpoint(record.trial).is_file(),
        **record.scores_of(row.variant),
        **costs_of(record),
    }


def _searched(record: Record) -> dict[str, Any]:
    return {
        "key": row_key(record),
        "trial": record.trial,
        "status": record.status,
        "hyperparameters": record.hyperparameters,
        **record.scores_of(None),
    }


def _curve(row: Row, confirmed: Record, searched: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """What was read on the way of a row's confirmed trials, or else of the search trial that it confirms."""
    if row.curve:
        for step, points in groupby(row.curve, key=lambda point: point.step):
            yield {"label": row.label, "trial": None, "step": step, **{one.quantity: one.mean for one in points}}
        return
    key = row_key(confirmed)
    same = [one for one in searched if row_key(one) == key and one.hyperparameters == confirmed.hyperparameters]
    for record in [one for one in same if one.status == "ok"][:1]:
        own = [reading for reading in record.readings if reading.variant in (None, row.variant)]
        before = [reading for reading in own if reading.step == 0]
        for step in sorted({0, *(reading.step for reading in own)}):
            at = [reading for reading in own if reading.step == step > 0]
            last = row.variant if step == record.measured_step else None
            found = scores([*before, *at], variant=last) if at else {"forgetting": 0.0} if before else {}
            if found:
                yield {"label": row.label, "trial": record.trial, "step": step, **found}


def _classes(row: Row, confirmed: Sequence[Record]) -> Classes | None:
    """None where no record says what images were called."""
    found = [(record, pairs) for record in confirmed if (pairs := _called(record, row.variant)) is not None]
    if not found:
        return None
    images = [record.details.get("images", {}) for record, _ in found]
    names = _names([one.get("per_class", {}).get("target_test", ()) for one in images], [pairs for _, pairs in found])
    kinds, counts = np.unique(np.concatenate([pairs for _, pairs in found], axis=1), axis=1, return_counts=True)
    return Classes(row.label, names, np.stack([*kinds, counts], axis=1))


def _called(record: Record, variant: str | None) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    answers = _answers(record, record.measured_step, "target", HEAD, variant)
    return None if answers is None else answers[0].confusion(answers[1])


def _source_classes(row: Row, confirmed: Sequence[Record]) -> SourceClasses | None:
    """None where no record says which class each query has."""
    found = [(record, table) for record in confirmed if (table := _kept(record, row.variant)) is not None]
    if not found:
        return None
    told = [record.details.get("images", {}).get("source_classes", ()) for record, _ in found]
    names = _names(told, [labels for _, (labels, *_) in found])
    each = [[np.bincount(labels[right], minlength=len(names)) for right in rights] for _, (labels, *rights) in found]
    n, before, after = np.sum(each, axis=0)
    return SourceClasses(row.label, names, n, before, after)


def _kept(record: Record, variant: str | None) -> tuple[Counts, Bits, Bits, Bits] | None:
    """Class of each query of the source; all of them, those that were right before, and those that were afterwards.

    None where the record does not say.
    """
    both = [_answers(record, 0, "source", KNN, None), _answers(record, record.measured_step, "source", KNN, variant)]
    (before, n), (after, of) = ((None, 0) if one is None else one for one in both)
    if before is None or after is None or (before.images, n) != (after.images, of):
        return None
    labels = before.labels(n)
    return None if labels is None else (labels, np.ones(n, np.bool_), before.array(n), after.array(n))


def _answers(record: Record, step: int, domain: str, probe: str, variant: str | None) -> tuple[Answers, int] | None:
    """The answers of a reading of test data, and to how many images; None where they were not kept."""
    if record.status != "ok":
        return None
    key = (step, "test", domain, probe, variant)
    return next(((one.answers, one.n) for one in record.readings if one.key == key and one.answers and one.n), None)


def _names(told: Sequence[Iterable[Any]], numbers: Sequence[np.ndarray[Any, np.dtype[np.int64]]]) -> list[str]:
    """The names of classes with such numbers, the first of those told that name all of them; else the numbers."""
    size = 1 + max(int(own.max()) for own in numbers)
    names = [[str(name) for name in own] for own in told]
    return next((own for own in names if len(own) >= size), [str(number) for number in range(size)])


def _provenance(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What records say of where they come from, and how many say each; no record may be there twice."""
    said: dict[str, Counter[str]] = {}
    for record in records:
        for field, value in _facts(record.provenance).items():
            said.setdefault(field, Counter())[value] += 1
    return [
        {"field": field, "value": value, "records": count}
        for field, values in said.items()
        for value, count in sorted(values.items())
    ]


def _facts(provenance: Mapping[str, Any]) -> dict[str, str]:
    hardware = provenance.get("hardware") or {}
    facts = {
        **{name: provenance.get(name) for name in SHOWN_PROVENANCE},
        **{name: hardware.get(name) for name in ("cpu", "cores")},
        "devices": ", ".join(map(str, hardware.get("devices") or [])) or None,
        "day": str(provenance.get("time") or "")[:10] or None,
        **(provenance.get("versions") or {}),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _ranges(folder: LaunchFolder) -> dict[str, dict[str, Any]]:
    """The ranges of numbers that each method's search proposed from, as far as the launch has left word of them."""
    if not folder.manifest.is_file():
        return {}
    try:
        manifest = json.loads(read_text(folder.manifest, most=MOST))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder.manifest} is not what a launch writes ({error}): remove it") from None
    studies = _inside(manifest, "asked", "study").values()
    spaces = {str(_inside(study).get("method")): _inside(study, "search") for study in studies}
    return {
        method: {name: found for name, values in space.items() if (found := _range(_inside(values)))}
        for method, space in spaces.items()
    }


def _range(values: Mapping[str, Any]) -> dict[str, Any]:
    ends = {name: values.get(name) for name in ("low", "high")}
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends.values()):
        return {}
    return {**ends, "log": values.get("log") is True}


def _inside(values: Any, *names: str) -> Mapping[str, Any]:
    """A mapping that lies in others; empty if it is not there, as in what an earlier version wrote."""
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}
