"""Rows: the confirmed results of a launch, and the one tidy table that everything people see is a rendering of."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from bench.readings import EQUAL
from bench.records import Record
from bench.reporting import curves
from bench.reporting.comparisons import FORGETTING_LIMIT, Separation, Standing, UnderLimit, compare_all
from bench.reporting.front import Hypervolume
from bench.reporting.markup import one_decimal
from bench.reporting.outcomes import Outcome, by_search, different_images, of_searches
from bench.spec import bound_in, readable

if TYPE_CHECKING:
    import pandas as pd

METHOD_ORDER = ("full", "top_k", "linear", "lora", "block_expansion")
"""The paper's methods come first, in its order."""

QUANTITIES = ("target_accuracy", "source_accuracy", "forgetting", "mean")
"""A leaderboard shows these, in percent."""

TEST_SELECTED = "†"

PARTS = ("mean", "std", "n", "low", "high")
"""A quantity has these columns: over its seeds, or where the search was repeated over searches, and the interval."""

FACTS = ("failed", "pareto", "best", "test_selected", "by_image")
"""These columns say something of a row as a whole."""

COUNTS = ("seeds", "target_images", "source_images", "searches", "search_trials")
"""So much stands behind a row; ``seeds`` are those that succeeded, of all its searches."""

COSTS = (
    "steps",
    "train_images",
    "train_seconds",
    "accelerator_seconds",
    "eval_seconds",
    "peak_memory",
    "checkpoint_bytes",
)
"""What a trial of the row took: optimizer steps, images that these saw, seconds of training, the same times the workers
that trained at once, seconds of measuring, bytes; means over its seeds, of the peak memory the highest."""

CHANCES = ("best_probability", "pareto_probability")
"""These columns say how probable something is of a row that has succeeded."""

BEHIND = ("behind", "behind_low", "behind_high", "behind_p")
"""The row's MEAN minus that of the row with the highest: value, interval, and p-value (Holm, over all pairs)."""

REGION = (
    "region_target_below",
    "region_target_above",
    "region_source_below",
    "region_source_above",
    "region_correlation",
)
"""The ellipse that holds both of the row's true accuracies at 95 %, see :class:`bench.reporting.front.Region`."""


Line = Mapping[str, Any]
"""A line of the wide table is a mapping by column; what is missing is None."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` seeds (with one seed there is none), and the 95 % interval.

    Where the search was repeated they are those of ``n`` searches, each with the mean of its seeds.
    """

    mean: float
    std: float | None
    n: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], interval: tuple[float, float] | None = None) -> Spread | None:
        """The spread of some values; None if there are none.

        Args:
            interval: over seeds and images, as shares.
        """
        if not values:
            return None
        low, high = (None, None) if interval is None else (100 * end for end in interval)
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values), low, high)


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard: a method, its row values, one configuration. Spreads are None if no seed succeeded.

    ``variant`` is what the method made of the trained models, if this line is about that. ``apart`` tells a
    configuration from others of the same row, where a row has several.
    """

    method: str
    row: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    trainable_parameters: int | None
    target_accuracy: Spread | None
    source_accuracy: Spread | None
    forgetting: Spread | None
    mean: Spread | None
    pareto: bool
    best: bool
    failed: int
    trials: tuple[str, ...]
    test_selected: bool = False
    """Chosen on test data (``protocol: paper``), and so not comparable with rows that were not."""
    variant: str | None = None
    apart: str = ""
    target_images: int | None = None
    source_images: int | None = None
    """Test images and source queries; None where the records do not say."""
    seeds: int = 0
    """Seeds that succeeded, of all searches together."""
    repeated: bool = False
    """Whether its search is one of several, so that it averages searches and not seeds."""
    searches: int = 0
    """Searches that the row averages; 0 where the records do not say."""
    search_trials: int = 0
    """Search trials of this row among the records, of each search."""
    by_image: bool = False
    """Whether the records say which images were right. Otherwise the images' uncertainty is the binomial one."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """See :data:`COSTS`; what no record says is not there."""
    standing: Standing | None = None
    """Where it stands among the rows; None if no seed succeeded."""
    configurations: tuple[Mapping[str, Any], ...] = ()
    """What was confirmed: of several searches a configuration each, in the order of their seeds."""
    curve: tuple[curves.CurvePoint, ...] = ()
    """What was read on the way of its trials; empty if nothing was, and for variants, which are made at the end."""
    of_seeds: tuple[int, ...] = ()
    """The seeds of its trials, the failed ones too."""

    @property
    def label(self) -> str:
        """The row's short name: its method, and what tells it from the method's other rows; † if marked."""
        words = [
            self.method,
            *(f"{name}={readable(value)}" for name, value in self.row.items()),
            self.variant,
            self.apart,
        ]
        return " ".join([*filter(None, words), *([TEST_SELECTED] if self.test_selected else [])])


@dataclass(frozen=True)
class Leaderboard:
    """The confirmed results of one study on one benchmark."""

    study: str
    benchmark: str
    seeds: tuple[int, ...]
    source_accuracy_before: float | None
    rows: tuple[Row, ...]
    objective: str | None = None
    """What the configurations were chosen by; None where the records do not say."""
    source_accuracy_before_max: float | None = None
    """Records of different kinds of hardware may differ in a query or two about the untouched backbone: the lowest and
    the highest of them. Each record's forgetting is its own difference."""
    ks: tuple[int, ...] = ()
    """k of the k-NN that the source accuracies come from; several only if records of old banks are mixed."""
    same_images: bool = True
    """Whether no two rows are known to have answered different images."""
    hypervolumes: tuple[Hypervolume, ...] = ()
    separation: Separation | None = None
    """What would tell the first two rows apart; None if there are no two."""
    under_limit: UnderLimit | None = None
    """The best row that keeps to the limit of forgetting, and those that may; None if no row succeeded."""
    forgetting_limit: float = FORGETTING_LIMIT
    """Points that a row may forget where the highest target accuracy under a constraint is looked for."""
    ended: bool = True
    """Whether its launch has run all that it was asked for."""


def build(records: Sequence[Record], *, forgetting_limit: float | None = None, ended: bool = True) -> Leaderboard:
    """Make a leaderboard of the confirmations among some records; search trials are left out.

    Records are repeats of each other, and averaged, only if everything but their seed is the same.

    Args:
        forgetting_limit: see :attr:`Leaderboard.forgetting_limit`; None: the one under which the rows were chosen, or
            ``FORGETTING_LIMIT`` where there was none, or several.
        ended: whether no further records are to come.

    Raises:
        ValueError: there are no confirmations, one is there twice, or they come from different studies, benchmarks or
            backbones.
    """
    confirmed = _confirmed(records)
    study, benchmark = (_only(confirmed, name) for name in ("study", "benchmark"))
    found = _found(records)
    before = _before(confirmed)
    objectives = {record.search.objective if record.search else "" for record in confirmed}
    judged = [reading for record in confirmed for reading in record.readings if reading.split == "test"]
    ks = {reading.settings["k"] for reading in judged if "k" in reading.settings}
    board = Leaderboard(
        study=study,
        benchmark=benchmark,
        seeds=tuple(sorted({record.seed for record in confirmed})),
        source_accuracy_before=min(before, default=None),
        source_accuracy_before_max=max(before, default=None),
        ks=tuple(sorted(ks)),
        rows=tuple(_ranked([row for row, _ in found])),
        objective=min(objectives) or None if len(objectives) == 1 else None,
        forgetting_limit=_limit(objectives, before) if forgetting_limit is None else forgetting_limit,
        ended=ended,
    )
    return _compared(board, [outcome for _, outcome in found])


def _limit(objectives: Collection[str], before: Sequence[float]) -> float:
    """Points that rows may forget by what all were chosen under: a limit on forgetting or on source accuracy."""
    found = set()
    for objective in objectives:
        limit, least = bound_in(objective, "forgetting", "max"), bound_in(objective, "source_accuracy", "min")
        if limit is None and least is not None and before:
            limit = min(before) - least
        found.add(limit)
    (only, *others) = found
    return FORGETTING_LIMIT if only is None or others else only


def outcomes(records: Sequence[Record]) -> dict[str, Outcome | None]:
    """What the rows of a leaderboard have answered, by label; None of a row no seed of which succeeded.

    Raises:
        ValueError: as for :func:`build`.
    """
    return {row.label: outcome for row, outcome in _found(records)}


def _confirmed(records: Sequence[Record]) -> list[Record]:
    confirmed = [record for record in records if record.phase == "confirm"]
    if not confirmed:
        raise ValueError("no record is a confirmation: the study ended before its search was over")
    return confirmed


def _found(records: Sequence[Record]) -> list[tuple[Row, Outcome | None]]:
    """Rows, whose labels tell them apart, and what their seeds have answered, in the leaderboard's order."""
    ordered, searched = sorted(_confirmed(records), key=_order), _searched(records)
    groups = [list(group) for _, group in groupby(ordered, key=lambda record: record.family)]
    found = [pair for group in groups for pair in _rows(group, searched)]
    return list(zip(_told_apart([row for row, _ in found]), (outcome for _, outcome in found), strict=True))


def _compared(board: Leaderboard, outcomes: Sequence[Outcome | None]) -> Leaderboard:
    """The board with what is known of its rows together; every row has its outcome, None if no seed succeeded."""
    good = [(row, outcome) for row, outcome in zip(board.rows, outcomes, strict=True) if outcome is not None]
    if not good:
        return board
    able = [outcome for _, outcome in good]
    labels, families = [row.label for row, _ in good], [_family(row) for row, _ in good]
    compared = compare_all(able, labels, families, board.forgetting_limit)
    standings = dict(zip(labels, compared.standings, strict=True))
    return replace(
        board,
        rows=tuple(replace(row, standing=standings.get(row.label)) for row in board.rows),
        same_images=_same_images(able),
        hypervolumes=compared.hypervolumes,
        separation=compared.separation,
        under_limit=compared.under_limit,
    )


def _same_images(outcomes: Sequence[Outcome]) -> bool:
    return all(different_images(one, other, "mean") is None for one, other in pairwise(outcomes))


def _family(row: Row) -> str:
    """What a row's hypervolume is counted with."""
    return f"{row.method} {TEST_SELECTED}" if row.test_selected else row.method


def costs_of(record: Record) -> dict[str, float]:
    """What a trial took, see :data:`COSTS`, as far as its record says."""
    peak = record.provenance.get("peak_memory") or {}
    batch, workers = record.config.get("train", {}).get("batch_size"), record.provenance.get("workers")
    costs = {
        "steps": record.steps,
        "train_images": _product(record.steps, batch),
        "train_seconds": record.train_seconds,
        "accelerator_seconds": _product(record.train_seconds, workers),
        "eval_seconds": record.eval_seconds,
        "peak_memory": peak.get("bytes"),
        "checkpoint_bytes": record.details.get("checkpoint_bytes"),
    }
    return {name: float(value) for name, value in costs.items() if value is not None}


def _product(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one * other


def _costs(records: Sequence[Record]) -> dict[str, float]:
    each = [costs_of(record) for record in records]
    said = {name: [own[name] for own in each if name in own] for name in COSTS}
    known = {name: values for name, values in said.items() if values}
    return {name: (max if name == "peak_memory" else statistics.fmean)(values) for name, values in known.items()}


def row_key(record: Record) -> str:
    """What a record's search trials and confirmations have in common: method, protocol and row values."""
    return json.dumps([record.method, record.protocol, record.row], sort_keys=True)


def _searched(records: Sequence[Record]) -> Counter[str]:
    """Search trials among some records, by row."""
    return Counter(row_key(record) for record in records if record.phase == "search")


def _only(records: Sequence[Record], field: str) -> str:
    values = sorted({str(getattr(record, field)) for record in records})
    if len(values) > 1:
        raise ValueError(f"one leaderboard cannot hold records of several {field}s: {', '.join(values)}")
    return values[0]


def _before(records: Sequence[Record]) -> list[float]:
    """What the records say of the untouched backbone.

    Raises:
        ValueError: they say different things, and come from different backbones or sources.
    """
    known = [value for record in records if (value := record.scores["source_accuracy_before"]) is not None]
    if known and max(known) - min(known) > EQUAL:
        for part in ("backbone", "source"):
            names = sorted({json.dumps(record.config.get("benchmark", {}).get(part)) for record in records})
            if len(names) > 1:
                raise ValueError(f"one leaderboard cannot hold records of several {part}s: {', '.join(names)}")
    return known


def _order(record: Record) -> tuple[Any, ...]:
    """Methods in the order of METHOD_ORDER, their rows by value, numbers before text, then by configuration."""
    known = METHOD_ORDER.index(record.method) if record.method in METHOD_ORDER else len(METHOD_ORDER)
    values = [(isinstance(v, str), v) if isinstance(v, (int, float)) else (True, str(v)) for v in record.row.values()]
    return known, record.method, values, record.protocol, record.family, record.repeat or 0, record.seed


def _rows(group: Sequence[Record], searched: Mapping[str, int]) -> Iterator[tuple[Row, Outcome | None]]:
    """The row of one configuration, and one for every variant of it, each with what its seeds have answered."""
    for one, other in pairwise(group):
        if one.seed == other.seed:
            raise ValueError(f"{one.trial} and {other.trial} are the same configuration and seed: a trial counts once")
    good = [record for record in group if record.status == "ok"]
    counts = {record.trainable_parameters: record.trial for record in good}
    chosen = _chosen(group)
    if len(counts) > 1 and len(chosen) == 1:
        said = " and ".join(f"{trial} {count}" for count, trial in counts.items())
        raise ValueError(f"seeds of one configuration train the same number of parameters, and these differ: {said}")
    first = (good or group)[0]
    variants = dict.fromkeys(variant for record in good for variant in record.variants)
    for variant in (None, *variants):
        outcome = Outcome.of(good, variant)
        target, source, forgetting, mean = (
            Spread.of(_each(good, variant, name), outcome.estimate(name).interval() if outcome else None)
            for name in QUANTITIES
        )
        row = Row(
            method=first.method,
            row=first.row,
            hyperparameters=_together(chosen),
            trainable_parameters=first.trainable_parameters if len(counts) <= 1 else None,
            configurations=chosen,
            target_accuracy=target,
            source_accuracy=source,
            forgetting=forgetting,
            mean=mean,
            pareto=False,
            best=False,
            failed=len(group) - len(good),
            trials=tuple(record.trial for record in group),
            of_seeds=tuple(sorted({record.seed for record in group})),
            test_selected=first.protocol == "paper",
            variant=variant,
            target_images=outcome.answers["target"].n if outcome else None,
            source_images=outcome.answers["source"].n if outcome else None,
            seeds=sum("mean" in record.scores_of(variant) for record in good),
            repeated=of_searches(good or group),
            searches=len({record.search for record in good or group if record.search is not None}),
            search_trials=searched.get(row_key(first), 0) // len(chosen),
            by_image=outcome is not None and outcome.by_image,
            costs=_costs(good),
            curve=curves.of(good) if variant is None else (),
        )
        yield row, outcome


def _each(good: Sequence[Record], variant: str | None, quantity: str) -> list[float]:
    """A quantity of every seed, in percent; where the search was repeated, of every search the mean of its seeds."""
    scored = [record.scores_of(variant) for record in good]
    groups = [[scored[place][quantity] for place in places if quantity in scored[place]] for places in by_search(good)]
    return [statistics.fmean(values) for values in groups if values]


def _chosen(group: Sequence[Record]) -> tuple[Mapping[str, Any], ...]:
    """What was chosen, by search; once if there was one."""
    found: dict[int | None, Mapping[str, Any]] = {}
    for record in group:
        if found.setdefault(record.repeat, record.hyperparameters) != record.hyperparameters:
            raise ValueError(f"{record.trial}: one search confirms one configuration of a row, and here are two")
    return tuple(found.values())


def _together(chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hyper-parameters of all searches: a list in their order where they differ."""
    found = {}
    for name in dict.fromkeys(name for values in chosen for name in values):
        each = [values.get(name) for values in chosen]
        found[name] = each[0] if all(value == each[0] for value in each) else each
    return found


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Give rows that have the same label what tells them apart: the hyper-parameters that differ, or a number."""
    alike: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        alike.setdefault(row.label, []).append(index)
    apart = dict[int, str]()
    for same in alike.values():
        if len(same) > 1:
            apart |= dict(zip(same, _differences([rows[index] for index in same]), strict=True))
    return [replace(row, apart=apart.get(index, "")) for index, row in enumerate(rows)]


def _differences(rows: Sequence[Row]) -> list[str]:
    """Words for each of some rows, no two alike: numbers with as few digits as do, from three."""
    names = list(dict.fromkeys(name for row in rows for name in row.hyperparameters))
    differing = [name for name in names if len({repr(row.hyperparameters.get(name)) for row in rows}) > 1]
    for digits in range(3, 18):
        words = [" ".join(f"{n}={readable(row.hyperparameters.get(n), digits)}" for n in differing) for row in rows]
        if len(set(words)) == len(words):
            return words
    return [f"{word} #{number}".strip() for number, word in enumerate(words, start=1)]


def _ranked(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows with the Pareto front and the best MEAN marked, as their means have it."""
    points = [(r.target_accuracy.mean, r.source_accuracy.mean) for r in rows if r.target_accuracy and r.source_accuracy]
    best = max((row.mean.mean for row in rows if row.mean), default=0.0)
    for row in rows:
        if not (row.target_accuracy and row.source_accuracy and row.mean):
            yield row
            continue
        target, source = row.target_accuracy.mean, row.source_accuracy.mean
        as_good = [point for point in points if point[0] >= target - EQUAL and point[1] >= source - EQUAL]
        beaten = any(point[0] > target + EQUAL or point[1] > source + EQUAL for point in as_good)
        yield replace(row, pareto=not beaten, best=row.mean.mean >= best - EQUAL)


def tidy(board: Leaderboard) -> pd.DataFrame:
    """The launch as one table, a line for every row and quantity.

    Columns: ``study``, ``benchmark``, ``objective``, ``method``, ``label``, ``row`` and ``hyperparameters`` (as JSON),
    ``variant``, ``trainable_parameters``, ``quantity``; its ``mean``, ``std`` and ``n`` over seeds (over searches where
    these were repeated), the ends ``low`` and ``high`` of its 95 % interval over these and images, all in percent;
    ``failed``, ``trials``, and whether by its means the row is on the Pareto front (``pareto``) or has the ``best``
    MEAN; ``test_selected``, ``by_image``, and the columns ``COUNTS``, ``COSTS``, ``CHANCES``, ``BEHIND`` and
    ``REGION``; ``groups``, in which it cannot be told from the best row.
    """
    import pandas as pd

    lines = [_line(board, row, quantity) for row in board.rows for quantity in QUANTITIES]
    counts = dict.fromkeys(("trainable_parameters", "n", "failed", "trials", *COUNTS), "Int64")
    numbers = dict.fromkeys(("mean", "std", "low", "high", *COSTS, *CHANCES, *BEHIND, *REGION), "float64")
    return pd.DataFrame(lines).astype({**counts, **numbers})


def _line(board: Leaderboard, row: Row, quantity: str) -> dict[str, Any]:
    spread: Spread | None = getattr(row, quantity)
    return {
        "study": board.study,
        "benchmark": board.benchmark,
        "objective": board.objective,
        "method": row.method,
        "label": row.label,
        "row": json.dumps(dict(row.row)),
        "variant": row.variant,
        "hyperparameters": json.dumps(dict(row.hyperparameters)),
        "trainable_parameters": row.trainable_parameters,
        "quantity": quantity,
        **{part: getattr(spread, part) if spread else None for part in PARTS},
        "trials": len(row.trials),
        **{fact: getattr(row, fact) for fact in (*FACTS, *COUNTS)},
        **{cost: row.costs.get(cost) for cost in COSTS},
        **_standing(row.standing),
    }


def _standing(standing: Standing | None) -> dict[str, Any]:
    if standing is None:
        return {**dict.fromkeys((*CHANCES, *BEHIND, *REGION)), "groups": ""}
    behind, region = standing.behind, standing.region
    numbers = zip(BEHIND, (behind.value, behind.low, behind.high, behind.p), strict=True)
    return {
        **{name: getattr(standing, name) for name in CHANCES},
        **dict(numbers),
        **dict(zip(REGION, (None,) * len(REGION) if region is None else astuple(region), strict=True)),
        "groups": " ".join(standing.groups),
    }


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with one line a row: ``target_accuracy_mean``, ``target_accuracy_std``, ... as columns."""
    facts = (*FACTS, *COUNTS, *COSTS, *CHANCES, *BEHIND, *REGION, "groups")
    own = ["objective", "method", "label", "row", "variant", "hyperparameters", "trainable_parameters", "trials"]
    own += facts
    rows = table.groupby("label", sort=False)[own].first().reset_index(drop=True)
    for quantity in QUANTITIES:
        of_quantity = table[table["quantity"] == quantity].reset_index(drop=True)
        for part in PARTS:
            rows[f"{quantity}_{part}"] = of_quantity[part]
    return rows


def cell(line: Line, quantity: str) -> str:
    """A quantity with its interval, ``91.4 [90.1, 92.6]``; or that it failed."""
    mean, low, high = (line[f"{quantity}_{part}"] for part in ("mean", "low", "high"))
    return "failed" if mean is None else with_interval(mean, low, high)


def with_interval(mean: float, low: float | None, high: float | None) -> str:
    """A number in percent as it is shown; without ends where its interval is not known."""
    shown = one_decimal(mean)
    return shown if low is None or high is None else f"{shown} [{one_decimal(low)}, {one_decimal(high)}]"


def lines(board: Leaderboard) -> list[Line]:
    """The rows of the wide table, in the leaderboard's order."""
    rows = wide(tidy(board))
    plain: list[Line] = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return plain
