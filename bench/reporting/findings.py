"""Findings: what a leaderboard says in sentences, what its intervals mean, and what it cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.readings import EQUAL
from bench.reporting.comparisons import CONSTRAINED
from bench.reporting.outcomes import one_of
from bench.reporting.rows import QUANTITIES, Leaderboard, Row, with_interval
from bench.reporting.statistics import POWER

INTERVAL = (
    "In brackets: the 95 % interval; of 100 such studies with other seeds and other images of the same kind, 95 would "
    "give one that holds the true value of these hyper-parameters. It leaves out what another search would have chosen."
)
INTERVAL_OF_ONE_SEED = (
    "In brackets: the 95 % interval over images alone, since one seed does not say how much seeds differ. It leaves "
    "out other seeds, and what another search would have chosen; and so does all that follows from it: bold, chances, "
    "and what is told apart. No row gets a ★ for it."
)
INTERVAL_OF_SEARCHES = (
    "In brackets: the 95 % interval; of 100 such studies with other searches, other seeds and other images of the same "
    "kind, 95 would give one that holds the true mean over all searches."
)
INTERVAL_OF_SEEDS = (
    "In brackets: the 95 % interval over seeds alone, since how many images were measured was not recorded. It leaves "
    "out other images, and what another search would have chosen."
)
NO_INTERVAL = "No number has an interval, but for what is certain: neither seeds nor images say how uncertain it is."
UNFINISHED = (
    "The launch has not ended: rows, seeds and searches that it has still to run are missing here, and the order may "
    "change."
)
BY_ACCURACY = (
    "{rows} do not say which images were right: what images leave open is the binomial variance of each accuracy where "
    "images were counted, and differences from other rows count as if they came from different images, which makes "
    "them wider."
)

TEST_LEGEND = (
    "†: hyper-parameters and checkpoint chosen on test data, as in the paper (protocol: paper); such rows compare with "
    "the published ones only."
)
LEGEND = (
    "Accuracies in percent. Target: test accuracy of the fine-tuned head. "
    "Source: weighted k-NN accuracy ({k}) of the backbone's features on the domain it was pre-trained on. "
    "Forgetting: source accuracy before minus after. MEAN: (target + source) / 2. "
    "Bold: cannot be told from the best of its column. Search: searches × trials of the row. "
    "Pareto: how probably no other row is at least as good in both accuracies and better in one; ★ from 95 %, "
    "☆ from 5 %."
)


def interval_legend(board: Leaderboard) -> str:
    """What an interval of this board means."""
    spreads = [spread for row in board.rows for name in QUANTITIES if (spread := getattr(row, name)) is not None]
    if spreads and all(spread.low is None for spread in spreads):
        return NO_INTERVAL
    if repeated(board):
        return INTERVAL_OF_SEARCHES
    several = any(spread.n > 1 for spread in spreads)
    if all(None in (row.target_images, row.source_images) for row in board.rows if row.standing is not None):
        return INTERVAL_OF_SEEDS if several else NO_INTERVAL
    return INTERVAL if several else INTERVAL_OF_ONE_SEED


def repeated(board: Leaderboard) -> bool:
    """Whether rows are means over searches."""
    return any(row.repeated for row in board.rows)


def basis(board: Leaderboard) -> str:
    """How many seeds and images stand behind the rows, and what chose them."""
    counts = {row.searches for row in board.rows}
    searches = f"{'up to ' * (len(counts) > 1)}{max(counts)} search{'es' * (max(counts) != 1)}"
    of_each = f"{searches} a row, with " if repeated(board) else ""
    parts = [f"{of_each}{seed_count(board)} a row: {_seeds(board)}"]
    for field, one, several in (
        ("target_images", "test image", "test images"),
        ("source_images", "source query", "source queries"),
    ):
        numbers = sorted({number for row in board.rows if (number := getattr(row, field)) is not None})
        what = one if numbers == [1] else several
        parts += [f"{' or '.join(f'{number:,}' for number in numbers)} {what}"] if numbers else []
    chosen = f"chosen by {board.objective}" if board.objective else "what chose the rows was not recorded"
    return "; ".join([*parts, chosen]) + "."


def seed_count(board: Leaderboard) -> str:
    """How many seeds a row has, or has at most."""
    count = len(board.seeds)
    return f"{'up to ' * bool(_fewer_seeds(board))}{count} seed{'s' * (count != 1)}"


def _seeds(board: Leaderboard) -> str:
    """All seeds, and behind them the rows that lack some, with those that they have."""
    of_rows = [f"{_named(labels)}: {_listed(seeds)}" for seeds, labels in _fewer_seeds(board).items()]
    return _listed(board.seeds) + (f" ({'; '.join(of_rows)})" if of_rows else "")


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _fewer_seeds(board: Leaderboard) -> dict[tuple[int, ...], list[str]]:
    """Labels of the rows that lack seeds which other rows have, by the seeds that they have."""
    found: dict[tuple[int, ...], list[str]] = {}
    for row in board.rows:
        if row.of_seeds != board.seeds:
            found.setdefault(row.of_seeds, []).append(row.label)
    return found


def probe(board: Leaderboard) -> str:
    """Which k the source accuracies come from."""
    return f"k = {' or '.join(map(str, board.ks))}" if board.ks else "k was not recorded"


def findings(board: Leaderboard) -> list[str]:
    """What the study can and cannot tell apart, and what its rows were given, a sentence each."""
    if all(row.standing is None for row in board.rows):
        return ["No row has succeeded, so nothing can be compared."]
    said = [*_of_mean(board), *_of_the_first_two(board), *_under_the_limit(board), *_of_methods(board)]
    return [*said, *_of_budgets(board)]


def caveats(board: Leaderboard) -> list[str]:
    """What makes this board's intervals other than they should be."""
    good = [row for row in board.rows if row.standing is not None]
    said = [] if board.ended else [UNFINISHED]
    if without := [row.label for row in good if not row.by_image]:
        rows = "These records" if len(without) == len(good) else f"The records of {_named(without)}"
        said.append(BY_ACCURACY.format(rows=rows))
    unknown = [row.label for row in good if row.mean and row.mean.low is None]
    uncounted = [row for row in good if None in (row.target_images, row.source_images) and row.label not in unknown]
    if uncounted and (len(uncounted) < len(good) or repeated(board)):
        labels = _named([row.label for row in uncounted])
        said.append(f"How many images were measured was not recorded for {labels}: intervals leave images out there.")
    if unknown:
        said.append(
            "How uncertain these are is not known, since their images were not counted and their seeds do not differ; "
            f"so no chances are given: {', '.join(unknown)}."
        )
    if not board.same_images:
        said.append("Some rows answered different images: their differences are not paired, and their order says less.")
    counted = [row for row in good if row.label not in unknown]
    return [*said, *_of_few_draws(counted, several=len(board.seeds) > 1)]


def _of_few_draws(rows: Sequence[Row], *, several: bool) -> Iterator[str]:
    """Which rows know less than the others of what chance would make of them.

    Args:
        several: whether any row was trained with more than one seed.
    """
    alone = [row for row in rows if row.mean and row.mean.n == 1]
    searches = any(row.repeated and row not in alone for row in rows)
    for what, labels in (
        ("seed", [row.label for row in alone if several and not row.repeated]),
        ("search", [row.label for row in alone if searches and row.repeated]),
    ):
        if labels:
            yield (
                f"Of one {what} alone, so that intervals are over images only, and comparisons leave out what another "
                f"{what} of theirs would give: {', '.join(labels)}."
            )
    if pairs := [row.label for row in rows if row.mean and row.mean.n == 2]:
        yield f"Of two seeds or searches, whose intervals may hold the truth in no more than 90 %: {', '.join(pairs)}."
    single = [row.label for row in rows if not row.repeated and row not in alone]
    if single and any(row.repeated for row in rows):
        yield f"Of a single search, so that intervals leave out what another would have chosen: {', '.join(single)}."


def _group(board: Leaderboard, name: str) -> list[Row]:
    return [row for row in board.rows if row.standing is not None and name in row.standing.groups]


def _of_mean(board: Leaderboard) -> Iterator[str]:
    if board.separation is None:
        return
    rows = [row for row in board.rows if row.standing is not None]
    best = next(row for row in rows if row.label == board.separation.first)
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
    apart, draws = found.difference, found.counted_in
    shown = with_interval(apart.value, apart.low, apart.high)
    said = f"{found.first} minus {found.second}: {shown} points of MEAN"
    said += f" over the {draws} that both have" if found.shared else ""
    if apart.told_apart:
        yield f"{said}, told apart with these {draws}."
        return
    if apart.low is None or apart.high is None:
        yield f"{said}; how uncertain that is is not known: the records do not say how many images were measured."
        return
    if abs(apart.value) <= EQUAL:
        yield f"{said}; no difference was found."
        return
    would = "would tell them apart" if apart.low <= 0 <= apart.high else "would tell them apart among all pairs"
    if found.seeds is not None:
        yield f"{said}; about {found.seeds} {draws} a row {would} in {POWER:.0%} of studies, if it is as large."
    elif found.of_one_seed:
        yield f"{said}; one {one_of(draws)} does not say how many {would}."
    else:
        yield f"{said}; no number of {draws} {would}: that takes more test images."


def _under_the_limit(board: Leaderboard) -> Iterator[str]:
    limit = f"{board.forgetting_limit:g} points"
    found = board.under_limit
    if found is None:
        return
    if found.best is None:
        may = f": {_named(found.others)} may, but not by the mean" if found.others else ""
        yield f"No row forgets at most {limit}{may}."
        return
    alike = [row.label for row in _group(board, CONSTRAINED) if row.label != found.best]
    told = ", and is told from all others that may forget as little" if found.others else ""
    told = f", and of those that may forget as little cannot be told from {_named(alike)}" if alike else told
    yield f"Of rows whose mean forgets at most {limit}, {found.best} has the highest target accuracy{told}."


def _of_methods(board: Leaderboard) -> Iterator[str]:
    if len(board.hypervolumes) > 1:
        each = (f"{own.method} {with_interval(own.value, own.low, own.high)}" for own in board.hypervolumes)
        yield f"Hypervolume of each method's rows, in percent of all accuracies: {'; '.join(each)}."


def _of_budgets(board: Leaderboard) -> Iterator[str]:
    """What a trial of each row trains with; what most rows have comes first."""
    found: dict[str, list[str]] = {}
    for row in board.rows:
        if "train_images" in row.costs:
            said = f"{row.costs['steps']:,.0f} steps, {row.costs['train_images']:,.0f} images"
            found.setdefault(said, []).append(row.label)
    if found:
        usual = max(found, key=lambda said: len(found[said]))
        others = "; ".join(f"{_named(labels)}: {said}" for said, labels in found.items() if said != usual)
        yield f"Each trial trains {usual}{f' ({others})' if others else ''}."


def _named(labels: Sequence[str]) -> str:
    """Labels as people list them."""
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
