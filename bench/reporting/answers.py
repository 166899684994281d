"""The answer in words: which row to take for which wish, and how certain that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.readings import EQUAL
from bench.reporting.comparisons import BREAKS_TIES, CONSTRAINED
from bench.reporting.events import Answered
from bench.reporting.rows import Leaderboard, Row, Spread, with_interval

NAMED = 3
"""So many rows are named, and more of them are counted."""


def answers(board: Leaderboard) -> list[Answered]:
    """An answer for every wish; none if no row succeeded.

    A row is certain for a wish if it is told from every other one that comes into question, at 95 % of such studies
    (Holm over all pairs), by several seeds and by images that were counted; and if its interval keeps to the limit.
    """
    rows = [row for row in board.rows if row.standing is not None]
    if not rows:
        return []
    return [*_for_target(rows), *_under_limit(board, rows), *_for_mean(rows), *_for_source(rows)]


def _for_target(rows: Sequence[Row]) -> Iterator[Answered]:
    best = _highest(rows, "target_accuracy")
    text = f"For the target alone take {best.label}: {_shown(best.target_accuracy)} % there, {_forgets(best)}"
    yield _answered("target_accuracy", best, f"{text}; {_told(rows, best, 'target_accuracy')}.", rows)


def _under_limit(board: Leaderboard, rows: Sequence[Row]) -> Iterator[Answered]:
    wish, limit = "forgetting_limit", f"{board.forgetting_limit:g} points"
    assert board.under_limit is not None  # a row has succeeded
    able = [row for row in rows if row.label in (board.under_limit.best, *board.under_limit.others)]
    if board.under_limit.best is None:
        text = f"To forget at most {limit} there is no row to take{_may(able)}."
        yield Answered(wish=wish, row=None, certain=False, text=text)
        return
    best = next(row for row in rows if row.label == board.under_limit.best)
    text = (
        f"To forget at most {limit} take {best.label}: {_shown(best.target_accuracy)} % on the target, {_forgets(best)}"
    )
    high = best.forgetting.high if best.forgetting else None
    within = high is not None and high <= board.forgetting_limit + EQUAL
    over = "" if high is None or within else ", so that it may forget more"
    answer = _answered(wish, best, f"{text}{over}; {_told(able, best, CONSTRAINED)}.", able, CONSTRAINED)
    yield answer.model_copy(update={"certain": answer.certain and within})


def _may(able: Sequence[Row]) -> str:
    """Of rows whose means do not keep to a limit, those that may keep to it all the same."""
    if not able:
        return ""
    named = [f"{row.label} ({_forgets(row)})" for row in able[:NAMED]]
    more = f" and {len(able) - NAMED} more" if len(able) > NAMED else ""
    return f" by its mean; {', '.join(named)}{more} may do"


def _for_mean(rows: Sequence[Row]) -> Iterator[Answered]:
    best = _highest(rows, "mean")
    chance = best.standing.best_probability if best.standing else None
    likely = f", the best with a chance of {100 * chance:.0f} %" if chance is not None and len(rows) > 1 else ""
    text = f"For both equally (MEAN) take {best.label}: {_shown(best.mean)} %{likely}; {_told(rows, best, 'mean')}"
    alike = [row for row in _alike(rows, best, "mean") if row.trainable_parameters is not None]
    fewest = min((row.trainable_parameters or 0 for row in alike), default=0)
    small = [row for row in alike if row.trainable_parameters == fewest]
    least, own = _highest(small, "mean") if small else best, best.trainable_parameters
    if (least.trainable_parameters or 0) < (own or 0):
        text += f", and of these {least.label} trains the fewest parameters ({least.trainable_parameters:,})"
    yield _answered("mean", best, f"{text}.", rows)


def _for_source(rows: Sequence[Row]) -> Iterator[Answered]:
    best = _highest(rows, "source_accuracy")
    text = f"To keep most of the source take {best.label}: {_shown(best.source_accuracy)} % there, {_forgets(best)}"
    yield _answered("source_accuracy", best, f"{text}; {_told(rows, best, 'source_accuracy')}.", rows)


def _answered(wish: str, best: Row, text: str, rows: Sequence[Row], group: str | None = None) -> Answered:
    certain = len(rows) > 1 and not _alike(rows, best, group or wish) and _by(rows) == ""
    return Answered(wish=wish, row=best.label, certain=certain, text=text)


def _highest(rows: Sequence[Row], quantity: str) -> Row:
    """The row with the highest mean, see ``BREAKS_TIES``; of rows that are equal in all, the first."""
    for name in BREAKS_TIES[quantity]:
        highest = max(getattr(row, name).mean for row in rows)
        rows = [row for row in rows if getattr(row, name).mean >= highest - EQUAL]
    return rows[0]


def _alike(rows: Sequence[Row], best: Row, group: str) -> list[Row]:
    """Rows that cannot be told from the best."""
    return [row for row in rows if row is not best and row.standing and group in row.standing.groups]


def _told(rows: Sequence[Row], best: Row, group: str) -> str:
    if len(rows) == 1:
        return "there is no other row to compare it with"
    alike = [row.label for row in _alike(rows, best, group)]
    how = f"(95 %{_by(rows)})"
    if not alike:
        return f"it is told from every other row {how}"
    if len(alike) == len(rows) - 1:
        return f"it cannot be told from any other row {how}"
    if len(alike) > NAMED:
        return f"it cannot be told from {len(alike)} of the {len(rows) - 1} others {how}"
    return f"it cannot be told from {' nor from '.join(alike)} {how}"


def _by(rows: Sequence[Row]) -> str:
    """What a comparison of some rows leaves out, since nothing is known of it for one of them; empty if nothing."""
    if any(row.mean is None or row.mean.n < 2 for row in rows):
        return "; over images alone, other seeds are left out"
    if any(None in (row.target_images, row.source_images) for row in rows):
        return "; over seeds alone, other images are left out"
    return ""


def _shown(spread: Spread | None) -> str:
    assert spread is not None
    return with_interval(spread.mean, spread.low, spread.high)


def _forgets(row: Row) -> str:
    return f"{_shown(row.forgetting)} points forgotten"
