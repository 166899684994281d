"""Optuna: what to try next, given what is known."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch

from bench.spec import Belief, Scalar, Space, Study, Value

METRIC = "objective"
"""Under this key Tune and Optuna get what is maximised: a number (see :meth:`bench.spec.Objective.value`), or a list of
them where the objective names several scores."""

EXCESSES = "excesses"
"""Under this key a result has the list of :meth:`bench.spec.Objective.excesses`, if there are constraints."""

SEEN = "seen"
"""Under this key a trial's last result has a list of what was read until then: ``step``, METRIC, EXCESSES.
This attribute of Optuna's trials holds it where an objective names several scores: pairs of step and scores."""

STOPPED = "stopped"
"""Under this key a trial's last result says whether it was ended before its time."""

RECORD = "record"
"""This attribute of Optuna's trials names the record."""

STARTUP_SHARE = 3
"""Samplers that learn begin to after one in so many of the trials."""

SPREAD = {"tpe": 8, "gp": 2}
"""What these learn from at first fills the space evenly, with so many trials at least: of ten or less, TPE takes a
single one for good."""

WIDTH = 0.1
"""Values that are drawn around a belief deviate from it by so much of the range (standard deviation)."""


def label(index: int) -> str:
    """What makes a search trial's id unique within its method."""
    return f"search-{index:02d}"


def record_of(study: Study, index: int) -> str:
    """The id of a study's search trial, which is its record's name."""
    return f"{study.method}-{study.labelled(label(index))}"


def nobody(trial: FrozenTrial) -> None:
    """Who is told of ended trials where nobody wants to know."""


class Proposals(OptunaSearch):
    """Ray's searcher for Optuna, with what that leaves out.

    Ray tells Optuna of a trial that was stopped as of one that ended, knows no constraints, and gives trials no names.
    """

    def __init__(self, study: Study, ended: Callable[[FrozenTrial], None] = nobody) -> None:
        """Search a study's space.

        Args:
            ended: is told of every trial that has ended, in the order of the trials.
        """
        self._study, self._ended = study, ended
        modes: list[str] = [*study.objective.modes]
        several = len(modes) > 1
        super().__init__(
            space=functools.partial(suggest, search=study.search),
            metric=list(study.objective.quantities) if several else METRIC,
            mode=modes if several else modes[0],
            points_to_evaluate=[{name: coded(value) for name, value in point.items()} for point in planned(study)]
            or None,
            sampler=sampler(study),
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The values of the next trial, which is given the name of its record."""
        values: dict[str, Any] | None = super().suggest(trial_id)
        trial = self._ot_trials[trial_id]
        trial.set_user_attr(RECORD, record_of(self._study, trial.number))
        return values

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended: a stopped one is pruned, with what was seen of it; a failed one has failed.

        Failed trials teach nothing: no sampler looks at them.
        """
        trial, objective = self._ot_trials[trial_id], self._study.objective
        tell = cast(optuna.Study, self._ot_study).tell
        if error or result is None:
            self._ended(tell(trial, state=TrialState.FAIL))
            return
        for constraint, excess in zip(objective.subject_to, result.get(EXCESSES, ()), strict=False):
            trial.set_constraint(str(constraint), excess)
        self._report(trial, result.get(SEEN, ()))
        if result.get(STOPPED, False):
            self._ended(tell(trial, state=TrialState.PRUNED))
            return
        values = result[METRIC] if objective.others else [result[METRIC]]
        self._ended(tell(trial, self._natural(values), TrialState.COMPLETE))

    def _report(self, trial: optuna.Trial, seen: Sequence[Mapping[str, Any]]) -> None:
        """Tell Optuna a trial's curve; of several scores it takes none, so that is an attribute."""
        if self._study.objective.others:
            trial.set_user_attr(SEEN, [[one["step"], self._natural(one[METRIC])] for one in seen])
            return
        for one in seen:
            (value,) = self._natural([one[METRIC]])
            trial.report(value, one["step"])

    def _natural(self, maximised: Sequence[float]) -> list[float]:
        """Scores as records have them."""
        modes = self._study.objective.modes
        return [value if mode == "max" else -value for mode, value in zip(modes, maximised, strict=True)]


def proposals(study: Study, ended: Callable[[FrozenTrial], None] = nobody) -> Proposals:
    """Optuna's sampler of the study's name, over the study's space.

    Every leaderboard row gets the same number of trials (one more for the first ones where it does not divide): the row
    fields are dealt out in turn, and Optuna chooses all other fields. A row that is searched less looks worse. A space
    that is no larger than the number of trials is tried completely.

    Args:
        ended: see :class:`Proposals`.
    """
    return Proposals(study, ended)


def _startup(study: Study) -> int:
    """So many trials come before a sampler's own proposals.

    Where they fill the space, whatever is proposed with a single result known, or none, is among them: a sampler would
    draw it at random.
    """
    share = study.trials // STARTUP_SHARE
    if study.sampler not in SPREAD:
        return max(2, share)
    return min(max(SPREAD[study.sampler], share, study.lag + 1), study.trials)


def sampler(study: Study) -> optuna.samplers.BaseSampler:
    """What proposes the values that are not dealt out or planned."""
    seed = study.search_seed
    known = max(2, _startup(study) - study.lag + 1)  # so many results there are at its first own proposal
    if study.sampler == "tpe":
        # Proposals whose results are not known yet push the next one away (constant_liar), whatever the default is.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=known, multivariate=True, constant_liar=True)
    if study.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=known, warn_independent_sampling=False)
    if study.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=_startup(study))
    return optuna.samplers.RandomSampler(seed=seed)  # what a plan leaves open


def planned(study: Study) -> list[dict[str, Value]]:
    """What of each trial's values is not left to Optuna.

    Beside what is dealt out, that is all of it for ``qmc`` and ``grid``: every row tries the same values. (A sequence
    over all rows together would try a quarter of the range in each of four rows.) Of ``tpe`` and ``gp`` it is what they
    begin with.
    """
    dealt, rows = study.dealt_points, study.row_values
    open_fields = {name: space for name, space in study.search.items() if name not in study.rows}
    first = sum(len(point) == len(study.search) for point in dealt) if open_fields else len(dealt)
    left = study.trials - first
    if study.sampler == "qmc":
        rests = sequence(open_fields, -(-left // len(rows)), study.search_seed)
    elif study.sampler == "grid":
        rests = grid(open_fields, left // len(rows))
    else:
        begun = believed(study, dealt) if study.beliefs else dealt
        return spread_out(study, begun) if study.sampler in SPREAD else begun
    points = [{**row, **rest} for rest in rests for row in rows]
    return dealt[:first] + points[:left] + dealt[first + len(points) :]


def believed(study: Study, dealt: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
    """What of each trial's values is not left to Optuna where some are believed to be good (see :class:`Belief`).

    Args:
        dealt: the same without beliefs.
    """
    draw = random.Random(f"beliefs {study.search_seed}")
    startup = max(_startup(study), len(study.row_values) * len(study.beliefs))
    rows = [dict(point) for point in dealt] or [{} for _ in range(min(startup, study.trials))]
    tried: set[str] = set()
    for index, point in enumerate(rows[:startup]):
        fitting = [belief for belief in study.beliefs if all(belief.values.get(n, v) == v for n, v in point.items())]
        names = {id(belief): json.dumps([study.beliefs.index(belief), point], sort_keys=True) for belief in fitting}
        first = next((belief for belief in fitting if names[id(belief)] not in tried), None)
        chosen = first or _drawn(fitting, draw.random())
        if chosen is None or len(point) == len(study.search):
            continue
        values = dict(chosen.values) if chosen is first else _around(chosen, study.search, draw)
        tried.add(names[id(chosen)])
        rows[index] = {**values, **point}
    return rows


def spread_out(study: Study, begun: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
    """What of each trial's values is not left to Optuna, where the first trials fill the space evenly.

    Args:
        begun: what is dealt out or believed, which stays.
    """
    open_fields = {name: space for name, space in study.search.items() if name not in study.rows}
    startup = _startup(study)
    points = [dict(point) for point in begun]
    points += [{} for _ in range(0 if study.rows else startup - len(points))]
    filled = strata(open_fields, startup, len(study.row_values), study.search_seed)
    return [{**rest, **point} for rest, point in zip(filled, points, strict=False)] + points[startup:]


def strata(search: Mapping[str, Space], count: int, rows: int, seed: int) -> list[dict[str, Value]]:
    """The first points of some rows, which take turns: a Latin hypercube of each row.

    A range is cut into as many equal parts as a row has points, and each part into as many as there are rows. A row has
    one point in each part, and each row another place in it: rows of one length are a hypercube together. All choices
    of a row take turns, too, and each has a set of its own, as long as there are points for that. The middle of the
    space comes first: what lies at its ends is the worst more often, and has to pass what is known by then
    (:mod:`bench.cluster.pruning`).

    Source: McKay, Beckman and Conover 1979, Technometrics 21:239.
    """
    draw = random.Random(f"start {seed}")
    choices = _choices(search, count // rows, draw)
    sets = rows * len(choices)
    counts = [len(range(one, count, sets)) for one in range(sets)]
    columns = {name: _places(counts, draw) for name in search if name not in choices[0]}
    ranges = [name for name in columns if search[name].choices is None]
    shares = [
        [{name: column[one][at] for name, column in columns.items()} for at in range(count)]
        for one, count in enumerate(counts)
    ]
    for own in shares:
        own.sort(key=lambda share: max((abs(share[name] - 0.5) for name in ranges), default=0.0))
    points = []
    for index in range(count):
        one, at = index % sets, index // sets
        points.append({**choices[one // rows], **{name: _at(search[name], u) for name, u in shares[one][at].items()}})
    return points


def _choices(search: Mapping[str, Space], most: int, draw: random.Random) -> list[dict[str, Value]]:
    """All combinations of the choices of a space, in an order of chance; one of none where there are too many."""
    choices = {name: space.choices for name, space in search.items() if space.choices is not None}
    if math.prod(map(len, choices.values())) > most:
        return [{}]
    found = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    draw.shuffle(found)
    return found


def _places(counts: Sequence[int], draw: random.Random) -> list[list[float]]:
    """Shares of a range, so many for each set: each has one in every equal part, in an order of chance."""
    shift, sets = 0.5 + (draw.random() - 0.5) / 2, len(counts)
    shares: list[list[float]] = [[] for _ in counts]
    for part in range(max(counts)):
        for own, count, place in zip(shares, counts, draw.sample(range(sets), sets), strict=True):
            if part < count:
                own.append((part + (place + shift) / sets) / count)
    for own in shares:
        draw.shuffle(own)
    return shares


def _drawn(beliefs: Sequence[Belief], share: float) -> Belief | None:
    """The belief that a number from 0 to 1 falls to, by their weights; None if to chance."""
    for belief in beliefs:
        share -= belief.weight
        if share < 0:
            return belief
    return None


def _around(belief: Belief, search: Mapping[str, Space], draw: random.Random) -> dict[str, Value]:
    """Values near those that are believed: normally distributed on their scale. A choice stays as it is."""
    values = dict(belief.values)
    for name, space in search.items():
        if name in values and space.choices is None:
            low, high = _ends(space)
            believed = float(values[name])  # type: ignore[arg-type] # it lies in the range
            place = math.log(believed / low) / math.log(high / low) if space.log else (believed - low) / (high - low)
            share = min(max(draw.gauss(place, WIDTH), 0.0), 1.0)
            near = min(max(_between(space, low, high, share), low), high)
            values[name] = _rounded(near) if _whole(space) else near
    return values


def sequence(search: Mapping[str, Space], count: int, seed: int) -> list[dict[str, Value]]:
    """The first points of a scrambled Halton sequence, which fill a space evenly however many they are.

    Source: Owen 2017, "A randomized Halton algorithm in R", arXiv 1706.02808.
    """
    if not search or count < 1:
        return []
    from scipy.stats import qmc  # 40 MB in every one of Tune's actors, if it were imported with this module

    shares = qmc.Halton(len(search), scramble=True, seed=seed).random(count).tolist()
    return [{name: _at(space, u) for (name, space), u in zip(search.items(), share, strict=True)} for share in shares]


def _at(space: Space, share: float) -> Value:
    """The value at a share of a space, from 0 to below 1; every choice and every integer has the same part of it."""
    if space.choices is not None:
        return space.choices[int(share * len(space.choices))]
    low, high = _ends(space)
    if not _whole(space):
        return min(max(_between(space, low, high, share), low), high)
    return min(max(_rounded(_between(space, low - 0.5, high + 0.5, share)), int(low)), int(high))


def grid(search: Mapping[str, Space], most: int) -> list[dict[str, Value]]:
    """The finest grid of at most so many points: all choices, and ranges in equal steps with both ends."""
    sizes = {name: len(space.choices or (None,)) for name, space in search.items()}
    if not search or math.prod(sizes.values()) > most:
        return []
    ranges = [name for name, space in search.items() if space.choices is None]
    while ranges:
        name = min(ranges, key=lambda one: sizes[one])
        finer = {**sizes, name: sizes[name] + 1}
        if math.prod(finer.values()) > most or not _holds(search[name], finer[name]):
            ranges.remove(name)
        else:
            sizes = finer
    values = [_steps(space, sizes[name]) for name, space in search.items()]
    return [dict(zip(search, point, strict=True)) for point in itertools.product(*values)]


def _holds(space: Space, count: int) -> bool:
    """Whether a range has so many steps that differ: of integers none may be shorter than 1."""
    low, high = _ends(space)
    return not _whole(space) or _between(space, low, high, 1 / (count - 1)) - low >= 1


def _steps(space: Space, count: int) -> list[Value]:
    """All choices, or so many values in equal steps from end to end; a single one lies in the middle."""
    if space.choices is not None:
        return list(space.choices)
    low, high = _ends(space)
    shares = [index / (count - 1) for index in range(count)] if count > 1 else [0.5]
    values = [min(max(_between(space, low, high, share), low), high) for share in shares]
    return [_rounded(value) for value in values] if _whole(space) else list(values)


def _ends(space: Space) -> tuple[float, float]:
    assert space.low is not None
    assert space.high is not None
    return space.low, space.high


def _whole(space: Space) -> bool:
    return isinstance(space.low, int) and isinstance(space.high, int)


def _between(space: Space, low: float, high: float, share: float) -> float:
    """What lies at a share of the way from low to high, on the space's scale."""
    return low * (high / low) ** share if space.log else low + (high - low) * share


def _rounded(value: float) -> int:
    """The nearest integer, and of two the larger one, so that values 1 apart never meet."""
    return math.floor(value + 0.5)


def suggest(trial: optuna.Trial, *, search: Mapping[str, Space]) -> None:
    """Ask Optuna for every searched field.

    The space is given to Ray as this function, not as a table, because only then may a point that is dealt out leave
    fields open.
    """
    for name, space in search.items():
        low, high = space.low, space.high
        if space.choices is not None:
            trial.suggest_categorical(name, [coded(choice) for choice in space.choices])
        elif isinstance(low, int) and isinstance(high, int):
            trial.suggest_int(name, low, high, log=space.log)
        else:
            assert low is not None
            assert high is not None
            trial.suggest_float(name, low, high, log=space.log)


def coded(value: Value) -> Scalar:
    """A value as Optuna stores it: lists as text."""
    return json.dumps(value) if isinstance(value, tuple) else value


def decoded(values: Mapping[str, Any], search: Mapping[str, Space]) -> dict[str, Value]:
    """What :func:`coded` made of searched values, turned back."""

    def one(name: str, value: Any) -> Value:
        choices = search[name].choices or ()
        return next((choice for choice in choices if isinstance(choice, tuple) and coded(choice) == value), value)

    return {name: one(name, value) for name, value in values.items()}
