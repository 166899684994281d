"""Two rows, or the rows of two launches, side by side: differences, and whether they are told apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.folder import LaunchFolder
from bench.readings import EQUAL
from bench.reporting import rows
from bench.reporting.comparisons import Difference
from bench.reporting.outcomes import (
    Outcome,
    alike,
    counted_in,
    difference,
    different_images,
    of_one_seed,
    one_of,
    same_images,
)
from bench.reporting.rows import QUANTITIES, TEST_SELECTED, with_interval
from bench.reporting.screen import plain, print_table
from bench.reporting.statistics import POWER, ROUNDING, Estimate, holm, seeds_needed
from bench.spec import unknown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Side:
    """A launch that is compared: folder, benchmark, rows by label, and the row that is meant (None: all of them)."""

    folder: Path
    benchmark: str
    rows: dict[str, Outcome | None]
    row: str | None

    def outcome(self, label: str) -> Outcome:
        """What a row has answered.

        Raises:
            ValueError: there is no such row, or none of its seeds succeeded.
        """
        if label not in self.rows:
            raise ValueError(f"{self.folder} has no row {label!r}: its rows are {', '.join(self.rows)}")
        found = self.rows[label]
        if found is None:
            raise ValueError(f"no seed of {label!r} in {self.folder} succeeded, so there is nothing to compare")
        return found


@dataclass(frozen=True)
class Compared:
    """One quantity of two rows: both, their difference, and the seeds that would tell them apart if these do not.

    All of it is over the seeds that both have, if they share two; ``left_out`` are those of the first, and of the
    second, that the other lacks. ``counted_in`` says whether these are seeds or searches
    (:func:`bench.reporting.outcomes.counted_in`).
    """

    label: str
    quantity: str
    first: Estimate
    second: Estimate
    apart: Difference
    seeds: int | None
    paired: bool
    """Whether both are known to have answered the same images."""
    counted_in: str = "seeds"
    left_out: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what came out."""

    first: Side
    second: Side
    lines: tuple[Compared, ...]
    family: int
    """Comparisons that Holm's p-values count: one that repeats another with its sign changed does not count again."""


def compare(first: str, second: str, quantities: Sequence[str] = QUANTITIES) -> Comparison:
    """Compare two rows, or every row that two launches have in common.

    Args:
        first: ``FOLDER:ROW`` or ``FOLDER``: a launch folder, or its records.
        second: the same, or ``ROW`` of the first one's folder; without a row, the one of the other is meant.
        quantities: what is compared.

    Raises:
        ValueError: there is no such folder, row or quantity, or the rows did not answer the same images.
    """
    quantities = [_quantity(name) for name in quantities]
    one = _side(first)
    other = _side(second, one)
    cases = [(label, name, a, b) for label, a, b in _pairs(one, other) for name in dict.fromkeys(quantities)]
    for _, quantity, a, b in cases:
        _check(one, other, a, b, quantity)
    estimates = [difference(a, b, quantity) for _, quantity, a, b in cases]
    again = [_mirrored(place, cases, estimates) for place in range(len(cases))]
    family = [place for place, first in enumerate(again) if first == place]
    adjusted = dict(zip(family, holm([estimates[place].p_value() for place in family]), strict=True))
    found = zip(cases, estimates, (adjusted[place] for place in again), strict=True)
    return Comparison(one, other, tuple(_compared(*each, family=len(family)) for each in found), len(family))


def _quantity(name: str) -> str:
    """A quantity by its name, or by the one that tables give it.

    Raises:
        ValueError: there is none of that name.
    """
    shown = {own.removesuffix("_accuracy"): own for own in QUANTITIES} | {own: own for own in QUANTITIES}
    if name.lower() not in shown:
        raise unknown("quantity", name, [own.removesuffix("_accuracy") for own in QUANTITIES])
    return shown[name.lower()]


def _mirrored(place: int, cases: Sequence[tuple[str, str, Outcome, Outcome]], estimates: Sequence[Estimate]) -> int:
    """The place of the comparison that this one repeats with the other sign, as forgetting repeats the source's where
    both began with the same backbone; otherwise its own.
    """
    label, quantity, *_ = cases[place]
    if quantity in ("source_accuracy", "forgetting"):
        for earlier, (other, name, *_) in enumerate(cases[:place]):
            if other == label and {name, quantity} == {"source_accuracy", "forgetting"}:
                one, two = estimates[earlier], estimates[place]
                as_sure = math.isclose(one.variance, two.variance, abs_tol=ROUNDING**2)
                if as_sure and abs(one.value + two.value) <= ROUNDING:
                    return earlier
    return place


def _compared(case: tuple[str, str, Outcome, Outcome], estimate: Estimate, p: float, family: int) -> Compared:
    label, quantity, a, b = case
    first, second = alike(a, b)
    return Compared(
        label=label,
        quantity=quantity,
        first=first.estimate(quantity),
        second=second.estimate(quantity),
        apart=Difference.of(estimate, p),
        seeds=None if of_one_seed(a, b) else seeds_needed(estimate, family),
        paired=same_images(a, b, quantity),
        counted_in=counted_in(a, b),
        left_out=(_without(a, first), _without(b, second)),
    )


def _without(every: Outcome, counted: Outcome) -> tuple[int, ...]:
    """Seeds, or searches by their number, that are not counted."""
    left = set(every.seeds) - set(counted.seeds)
    return tuple(sorted(-1 - seed if every.repeated else seed for seed in left))


def _side(said: str, other: Side | None = None) -> Side:
    folder, row = _split(said)
    if folder is None:
        if other is None or other.row is None:
            raise ValueError(f"there is no folder {said}: say FOLDER:ROW or FOLDER, as results/paper/tiny:linear")
        return Side(other.folder, other.benchmark, other.rows, said.strip())
    if row == "":
        raise ValueError(f"{said}: say which row of {folder}, or leave the colon out")
    records = LaunchFolder(_launch(folder)).read_records()
    (benchmark,) = {record.benchmark for record in records[:1]}
    return Side(folder, benchmark, rows.outcomes(records), row)


def _launch(folder: Path) -> Path:
    """The launch folder, of which the records may have been named."""
    return folder.parent if folder.name == "records" else folder


def _same(one: Side, other: Side) -> bool:
    return _launch(one.folder).resolve() == _launch(other.folder).resolve()


def _split(said: str) -> tuple[Path | None, str | None]:
    """Folder and row of what was said; no folder if no part of it is one."""
    if Path(said).is_dir():
        return Path(said), None
    places = [place for place, letter in enumerate(said) if letter == ":" and Path(said[:place] or ".").is_dir()]
    if not places:
        return None, None
    return Path(said[: places[-1]] or "."), said[places[-1] + 1 :].strip()


def _pairs(one: Side, other: Side) -> Iterator[tuple[str, Outcome, Outcome]]:
    if one.row is not None or other.row is not None:
        first, second = one.row or other.row or "", other.row or one.row or ""
        if _same(one, other) and first == second:
            raise ValueError(f"both are {first!r} in {one.folder}: name two rows")
        label = first if first == second else f"{first} / {second}"
        yield label, one.outcome(first), other.outcome(second)
        return
    common = [label for label, found in one.rows.items() if found is not None and other.rows.get(label) is not None]
    if _same(one, other) or not common:
        raise ValueError(
            f"{one.folder} and {other.folder} have no rows to compare: name one of each, as FOLDER:ROW "
            f"(rows of the first: {', '.join(one.rows)})"
        )
    for label in common:
        yield label, one.outcome(label), other.outcome(label)


def _check(one: Side, other: Side, first: Outcome, second: Outcome, quantity: str) -> None:
    """Raise a ValueError if two rows are known not to have answered the same images."""
    if one.benchmark != other.benchmark:
        raise ValueError(
            f"{one.folder} is of benchmark {one.benchmark} and {other.folder} of {other.benchmark}: compare rows of one"
        )
    if (what := different_images(first, second, quantity)) is not None:
        where = f"in {one.folder} than in {other.folder}"
        if one.folder == other.folder:
            where = f"for {one.row!r} than for {other.row!r} of {one.folder}"
        raise ValueError(
            f"{quantity} was measured on other {what} images {where}: compare rows that were measured on the same ones"
        )


def show(found: Comparison, console: Console) -> None:
    """Print the table of a comparison, and what it says in sentences."""
    print_table(table(found), console)
    for said in sentences(found):
        console.print(plain(said))


def table(found: Comparison) -> Table:
    """Both rows and their difference, a line a quantity."""
    from rich.table import Table

    several = len({line.label for line in found.lines}) > 1
    shown = Table(title=plain(_title(found)), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in (*(["row"] if several else []), "quantity"):
        shown.add_column(name)
    for name in ("A", "B", "A − B", "p"):
        shown.add_column(name, justify="right", no_wrap=True)
    for line in found.lines:
        numbers = [line.first.percent(), line.second.percent(), (line.apart.value, line.apart.low, line.apart.high)]
        cells = [line.quantity.removesuffix("_accuracy"), *(with_interval(*each) for each in numbers)]
        names = [line.label] if several else []
        shown.add_row(*map(plain, (*names, *cells, f"{line.apart.p:.3f}")), style="bold" * line.apart.told_apart)
    return shown


def _title(found: Comparison) -> str:
    sides = ((found.first, found.second), (found.second, found.first))
    names = [f"{side.folder} {side.row or other.row or ''}".rstrip() for side, other in sides]
    return f"A: {names[0]}\nB: {names[1]}"


def sentences(found: Comparison) -> Iterator[str]:
    """What a comparison says and how."""
    lines = found.lines
    several = len({line.label for line in lines}) > 1
    names = [f"{line.label}, {line.quantity}" if several else line.quantity for line in lines]
    told = [name for name, line in zip(names, lines, strict=True) if line.apart.told_apart]
    how = f"(95 %, Holm over {found.family} comparison{'s' * (found.family > 1)})"
    yield f"Told apart: {'; '.join(told)} {how}." if told else f"Nothing is told apart {how}."
    rest: dict[str, list[str]] = {}
    for name, line in zip(names, lines, strict=True):
        if not line.apart.told_apart:
            rest.setdefault(_needed(line), []).append(name)
    if rest:
        each = [f"{'; '.join(alike)} ({why})" for why, alike in rest.items()]
        yield f"Not told apart: {'; '.join(each)}."
    yield from dict.fromkeys(said for line in lines for said in _left_out(line, several))
    for counted in dict.fromkeys(
        line.counted_in for line in lines if _of_one_seed(line) and line.apart.low is not None
    ):
        yield (
            f"A row of one {one_of(counted)}: its intervals are over images alone, and its differences leave out its "
            f"other {counted}."
        )
    if not all(line.paired for line in lines):
        yield "The records do not say which images were right: differences count as if they came from different images."
    if not all(line.first.counted and line.second.counted for line in lines):
        yield "The records do not say how many images were measured: what these leave open is left out."
    marked = {TEST_SELECTED in label for line in lines for label in line.label.split(" / ")}
    if marked == {True, False}:
        yield f"{TEST_SELECTED}: chosen on test data, which makes its accuracy too high beside a row that was not."


def _left_out(line: Compared, several: bool) -> Iterator[str]:
    for name, other, left in zip("AB", "BA", line.left_out, strict=True):
        if left:
            what = f"{'repeat' if line.counted_in == 'searches' else 'seed'}{'s' * (len(left) > 1)}"
            of = f"{name}'s {line.label}" if several else name
            yield f"Left out of {of}, since {other} lacks them: {what} {', '.join(map(str, left))}."


def _of_one_seed(line: Compared) -> bool:
    return not (line.first.seeds and line.second.seeds)


def _needed(line: Compared) -> str:
    """How many seeds or searches would tell two rows apart."""
    if abs(line.apart.value) <= EQUAL:
        return "no difference was found"
    if line.apart.low is None or line.apart.high is None:
        return "how uncertain it is is not known: the records do not say how many images were measured"
    if not line.apart.low <= 0 <= line.apart.high:
        return "it would be if it were the only comparison"
    if _of_one_seed(line):
        return f"one {one_of(line.counted_in)} does not say how many would do it"
    if line.seeds is None:
        return f"no number of {line.counted_in} would, on these images"
    return (
        f"about {line.seeds} {line.counted_in} a row would do it in {POWER:.0%} of studies, if it is as large as that"
    )
