"""Findings: what a leaderboard says in sentences, what its intervals mean, and what it cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.reporting.comparisons import CONSTRAINED
from bench.reporting.rows import Leaderboard, Row

INTERVAL = (
    "In brackets: the 95 % interval; of 100 such studies with other seeds and other images of the same kind, 95 would "
    "give one that holds the true value of these hyper-parameters. It leaves out what another search would have chosen."
)
INTERVAL_OF_ONE_SEED = (
    "In brackets: the 95 % interval over images alone, since one seed does not say how much seeds differ. It leaves "
    "out other seeds, and what another search would have chosen."
)
BY_ACCURACY = (
    "These records do not say which images were right: what images leave open is the binomial variance of each "
    "accuracy, and differences count as if they came from different images, which makes them wider."
)


def interval_legend(board: Leaderboard) -> str:
    """What an interval of this board means."""
    several = any(row.mean is not None and row.mean.n > 1 for row in board.rows)
    return INTERVAL if several else INTERVAL_OF_ONE_SEED


def basis(board: Leaderboard) -> str:
    """How many seeds and images stand behind the rows, and what chose them."""
    count = len(board.seeds)
    parts = [f"{count} seed{'s' * (count > 1)} a row: {', '.join(map(str, board.seeds))}"]
    for field, what in (("target_images", "test images"), ("source_images", "source queries")):
        numbers = sorted({number for row in board.rows if (number := getattr(row, field)) is not None})
        parts += [f"{' or '.join(f'{number:,}' for number in numbers)} {what}"] if numbers else []
    chosen = f"chosen by {board.objective}" if board.objective else "what chose the rows was not recorded"
    return "; ".join([*parts, chosen]) + "."


def findings(board: Leaderboard) -> list[str]:
    """What the study can and cannot tell apart, a sentence each."""
    return [*_of_mean(board), *_of_the_first_two(board), *_under_the_limit(board), *_of_methods(board)]


def caveats(board: Leaderboard) -> list[str]:
    """What makes this board's intervals other than they should be."""
    good = [row for row in board.rows if row.standing is not None]
    said = []
    if any(not row.by_image for row in good):
        said.append(BY_ACCURACY)
    if any(None in (row.target_images, row.source_images) for row in good):
        said.append("How many images were measured was not recorded for every row: its intervals are over seeds alone.")
    if not board.same_images:
        said.append("Some rows answered different images: their differences are not paired, and their order says less.")
    alone = [row.label for row in good if row.mean and row.mean.n == 1 and len(board.seeds) > 1]
    if alone:
        said.append(f"Of one seed alone, with intervals and comparisons over images only: {', '.join(alone)}.")
    return said


def _group(board: Leaderboard, name: str) -> list[Row]:
    return [row for row in board.rows if row.standing is not None and name in row.standing.groups]


def _of_mean(board: Leaderboard) -> Iterator[str]:
    rows = [row for row in board.rows if row.standing is not None]
    best = next((row for row in rows if row.best), None)
    if best is None or len(rows) < 2:
        return
    alike = [row.label for row in _group(board, "mean") if row is not best]
    others = [row.label for row in rows if row is not best and row.label not in alike]
    pairs = len(rows) * (len(rows) - 1) // 2
    how = f"(95 %, Holm over {pairs} pair{'s' * (pairs > 1)})"
    if not alike:
        yield f"{best.label} has the highest MEAN and is told from every other row {how}."
        return
    told = f"; it is told from {_named(others)}" if others else ""
    yield f"{best.label} has the highest MEAN, and cannot be told from {_named(alike)}{told} {how}."


def _of_the_first_two(board: Leaderboard) -> Iterator[str]:
    found = board.separation
    if found is None:
        return
    apart = found.difference
    said = f"{found.first} minus {found.second}: {apart.value:.1f} [{apart.low:.1f}, {apart.high:.1f}] points of MEAN"
    if apart.told_apart:
        yield f"{said}, told apart with these seeds."
    elif found.seeds is not None:
        yield f"{said}; about {found.seeds} seeds a row would tell them apart."
    elif len(board.seeds) == 1:
        yield f"{said}; one seed does not say how many would tell them apart."
    else:
        yield f"{said}; no number of seeds would tell them apart: that takes more test images."


def _under_the_limit(board: Leaderboard) -> Iterator[str]:
    limit = f"{board.forgetting_limit:g} points"
    kept = [row for row in board.rows if row.forgetting and row.forgetting.mean <= board.forgetting_limit]
    if not kept:
        yield f"No row forgets at most {limit}."
        return
    best = max(kept, key=lambda row: row.target_accuracy.mean if row.target_accuracy else 0.0)
    alike = [row.label for row in _group(board, CONSTRAINED) if row is not best]
    told = f", and cannot be told from {_named(alike)}" if alike else ", and is told from all others that may"
    yield f"Of rows that forget at most {limit}, {best.label} has the highest target accuracy{told}."


def _of_methods(board: Leaderboard) -> Iterator[str]:
    if len(board.hypervolumes) > 1:
        each = (f"{own.method} {own.value:.1f} [{own.low:.1f}, {own.high:.1f}]" for own in board.hypervolumes)
        yield f"Hypervolume of each method's rows, in percent of all accuracies: {'; '.join(each)}."


def _named(labels: Sequence[str]) -> str:
    """Labels as people list them."""
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
