"""An audit as a page: the answer in three sentences, its tables, what it cannot say, and how to make another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from scipy import special

from bench.reporting.audit import (
    CHOSEN_ON_TEST,
    NEEDED,
    STAGES,
    TARGET,
    Audit,
    Audited,
    unsteady_pairs,
)
from bench.reporting.comparisons import ALPHA
from bench.reporting.markup import one_decimal
from bench.reporting.outcomes import of_seeds
from bench.reporting.rows import with_interval
from bench.reporting.statistics import Estimate, holm
from bench.spec import readable

TITLES = {
    "checkpoint": "checkpoint chosen on test",
    "rate": "rate chosen on test",
    "last": "best checkpoint, not the last",
    "preprocess": "its preprocessing",
    "search": "its grid, not a search",
}
"""What each part is, see :data:`bench.reporting.audit.STAGES`."""

WHAT_FOR = (
    "the paper's grid of learning rates, each over three seeds, read on test and on validation data",
    "what a search chooses on validation data",
    "the same grid with the backbone's own preprocessing",
)
"""Of the launches that are needed."""

PAPERS_BENCHMARK, PAPERS_IMAGES = "cifar100", 10_000
"""The benchmark of the paper's table, and its test images."""

ON_THE_PAPERS = (" --benchmark cifar100 --source imagenet1k:/data/imagenet", "  # not run: needs ImageNet")


def page(found: Audit, command: str) -> str:
    """The audit in Markdown.

    Args:
        command: what made it.
    """
    name = found.benchmark.get("name", "this benchmark")
    lines = [
        f"# Audit of arXiv 2404.17245 on {name}",
        "",
        " ".join([_optimism(found, name), _seeds(found), _rest(found)]),
        "",
        f"Made by `{command}`; do not edit it.",
        "",
        *_parts(found),
        *_spread(found),
        *_totals(found),
        *_limits(found, name),
        *_launches(found),
    ]
    return "\n".join(lines) + "\n"


def _whole(found: Audit) -> Audited | None:
    """What stands for all rows; None where they cannot be averaged."""
    return found.rows[0] if len(found.rows) == 1 else found.mean


def _shown(estimate: Estimate) -> str:
    return with_interval(*estimate.percent())


def _range(values: Sequence[float]) -> str:
    least, most = map(one_decimal, (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def _part(row: Audited, name: str) -> Estimate | None:
    return next((part.added for part in row.parts if part.name == name), None)


def _optimism(found: Audit, name: str) -> str:
    rows, whole = found.rows, _whole(found)
    values = [100 * row.optimism.value for row in rows]
    if whole is None:
        return (
            f"On `{name}` choosing checkpoint and learning rate on test data adds {_range(values)} points of target "
            f"accuracy to a row of the paper's table."
        )
    of_whom = whole.label if len(rows) == 1 else f"{whole.label}; {_range(values)}"
    each = [_part(whole, part) for part in CHOSEN_ON_TEST]
    checkpoint, rate = (one_decimal(100 * one.value) if one else "–" for one in each)
    return (
        f"On `{name}` choosing checkpoint and learning rate on test data adds {_shown(whole.optimism)} points of "
        f"target accuracy to a row of the paper's table ({of_whom}): {checkpoint} by the "
        f"checkpoint, {rate} by the rate."
    )


def _deviation(row: Audited) -> float:
    return statistics.stdev(row.of_seeds)


def _seeds(found: Audit) -> str:
    rows = found.rows
    typical = math.sqrt(statistics.fmean(_deviation(row) ** 2 for row in rows))
    widest = max(rows, key=_deviation)
    changing, pairs = unsteady_pairs(rows)
    order = f"; of {pairs} pairs of rows {changing} have another order with another seed" if pairs else ""
    return (
        f"Its one seed hides a standard deviation between seeds of {typical:.1f} points (the largest is "
        f"{_deviation(widest):.1f}, of {widest.label}){order}."
    )


def _rest(found: Audit) -> str:
    """The third sentence: preprocessing, grid, and all of it together."""
    if "search" in found.lacking:
        return "What its grid of learning rates gives away against a search is not known: that launch is not there."
    whole = _whole(found)
    rows = [row for row in found.rows if row.ours is not None]
    grids = [100 * part.value for row in rows if (part := _part(row, "search")) is not None]
    grid = _part(whole, "search") if whole else None
    changed = _shown(grid) if grid else _range(grids)
    said = f"Its grid of rates in place of a search changes a row by {changed} points"
    own = {row.label: 100 * part.value for row in rows if (part := _part(row, "preprocess")) is not None}
    of_whom = f" ({', '.join(own)})" if len(own) < len(rows) else ""
    said += (
        f", its preprocessing by {_range(list(own.values()))}{of_whom}" if own else ", its preprocessing was not varied"
    )
    target, source = (whole.total(name) if whole else None for name in (TARGET, "source_accuracy"))
    if target is None or source is None:
        return f"{said}."
    together = f"{_shown(target)} points of target and {_shown(source)} of source accuracy"
    return f"{said}; together its way shows {together} against ours."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], rule: str = "---:") -> list[str]:
    lines = [header, ["---", *[rule] * (len(header) - 1)], *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def _parts(found: Audit) -> Iterator[str]:
    rows = found.rows
    p_values = holm([part.added.p_value() for row in rows for part in row.parts])
    told = iter([p < ALPHA for p in p_values])
    body = [_parts_of(row, {part.name: next(told) for part in row.parts}) for row in rows]
    if found.mean is not None:
        body.append(_parts_of(found.mean, {}))
    yield "## Where a number comes from"
    yield ""
    yield (
        "Target accuracy in percent, and points that each choice of the paper adds to it, each with its 95 % interval "
        "over seeds and test images, paired where they are the same. From left to right one choice after another is "
        "made as `protocol: clean` makes it, so that a row adds up. **Bold**: told apart from 0 (Holm over these "
        f"{len(p_values)} numbers)."
    )
    yield ""
    shown = [TITLES[name] for name in STAGES[1:]]
    yield from _table(["row", "the paper's number", "its one seed", *shown, "ours"], body)
    yield (
        "*The paper's number* is the best of all rates and checkpoints on test data with the first seed, its interval "
        "over images alone, which is all that one seed can tell. *Its one seed*: that minus the mean over the seeds; "
        "nothing says how sure this is. *Ours* is the last stage that was measured."
    )
    yield ""


def _parts_of(row: Audited, told: dict[str, bool]) -> list[str]:
    first = of_seeds(row.stages["paper"], row.seeds[:1]).estimate(TARGET)
    last = row.stages[[name for name in STAGES if name in row.stages][-1]].estimate(TARGET)
    cells = []
    for name in STAGES[1:]:
        part = _part(row, name)
        text = "–" if part is None else _shown(part)
        cells.append(f"**{text}**" if told.get(name) else text)
    return [row.label, _shown(first), one_decimal(row.luck), *cells, _shown(last)]


def _spread(found: Audit) -> Iterator[str]:
    yield "## What one seed hides"
    yield ""
    yield (
        "What the paper would have reported with each seed, and the learning rates that test data, validation data and "
        "the search chose."
    )
    yield ""
    body = [
        [
            row.label,
            ", ".join(f"{value:.1f}" for value in row.of_seeds),
            f"{_deviation(row):.1f}",
            *(_rates(row.rates.get(name, ())) for name in ("paper", "rate", "search")),
        ]
        for row in found.rows
    ]
    header = ["row", "target accuracy by seed", "deviation", "rates by test", "by validation", "by the search"]
    yield from _table(header, body)
    if ends := [row.label for row in found.rows if row.at_an_end]:
        yield (
            f"With every seed test data chose an end of the grid for {', '.join(ends)}: better rates may lie beyond, "
            f"and a choice that is so plain says little of what choosing a rate on test data adds."
        )
        yield ""


def _rates(rates: Sequence[float]) -> str:
    return ", ".join(readable(rate, 3) for rate in rates) or "–"


def _totals(found: Audit) -> Iterator[str]:
    """Both accuracies as the paper's way and ours show them."""
    rows = [row for row in (*found.rows, *([found.mean] if found.mean else [])) if row.ours is not None]
    if not rows:
        return
    yield "## Against ours, over the seeds"
    yield ""
    yield "Models that the paper would report, minus those of the search; in points, the source accuracies in percent."
    yield ""
    body = []
    for row in rows:
        assert row.ours is not None
        apart = [row.total(name) for name in (TARGET, "source_accuracy", "mean")]
        target, source, mean = (_shown(one) if one else "–" for one in apart)
        of_source = [_shown(one.estimate("source_accuracy")) for one in (row.reported, row.ours)]
        body.append([row.label, target, *of_source, source, mean])
    yield from _table(["row", "target", "source, the paper's way", "source, ours", "source", "MEAN"], body)


def _limits(found: Audit, name: str) -> Iterator[str]:
    seeds = len(found.rows[0].seeds)
    images = found.rows[0].stages["paper"].answers["target"].n
    yield "## What it cannot say"
    yield ""
    if name != PAPERS_BENCHMARK:
        yield f"- **{name} is not CIFAR-100.** {_other_size(images)}"
    low, high = (math.sqrt((seeds - 1) / special.chdtri(seeds - 1, share)) for share in (0.025, 0.975))
    yield (
        f"- How much seeds differ, to better than a factor: of {seeds} normal numbers the true standard deviation lies "
        f"between {low:.1f} and {high:.1f} times the one that is found (95 %)."
    )
    yield (
        "- What would have been chosen on other test images: intervals hold for the choices that were made. What "
        "choosing checkpoint and rate on test data adds together is never below 0, whatever the data."
    )
    yield "- How the source accuracy comes apart: it was read at the checkpoints that the paper keeps, nowhere else."
    yield (
        "- What the paper's code would give: it had no validation data, and may have trained on the images that are "
        "held out for it here. A grid's rate is chosen and measured with one seed, a search's with two."
    )
    yield from _gaps(found)
    yield ""


def _other_size(images: int | None) -> str:
    """How far numbers of another benchmark than the paper's may lead."""
    said = "Backbone, images and training differ from the paper's, and so may every number here, its sign too."
    if images is None:
        return said
    luck = math.sqrt(PAPERS_IMAGES / images)
    return (
        f"{said} The luck of a choice shrinks with the square root of the test images: {images:,} here, "
        f"{PAPERS_IMAGES:,} there, {luck:.1f} times less."
    )


def _gaps(found: Audit) -> Iterator[str]:
    """What was left out, row by row."""
    if "preprocess" in found.lacking:
        also = "" if "search" in found.lacking else f"; it is within *{TITLES['search']}*"
        yield f"- What the preprocessing does: its launch is not there{also}."
    elif missing := [row.label for row in found.rows if "preprocess" not in row.stages]:
        yield (
            f"- What the preprocessing does to {', '.join(missing)}: of these it was not varied; it is within "
            f"*{TITLES['search']}*."
        )
    if found.left_out:
        yield f"- Anything of rows that are not complete: {'; '.join(found.left_out)}."
    if found.unread:
        yield f"- Anything of rows that only the search has: {', '.join(found.unread)}."


def _launches(found: Audit) -> Iterator[str]:
    rows = len(found.rows)
    counts = [sum(name in row.stages for row in found.rows) for name in ("paper", "search", "preprocess")]
    given = {0: "**missing**", rows: "given"}
    yield "## The launches"
    yield ""
    yield "All on one benchmark, with equal seeds; the first is needed, the others fill their columns."
    yield ""
    yield from _table(
        ["command", "for", "here"],
        [
            [f"`{command}`", what, given.get(count, f"given for {count} of {rows} rows")]
            for command, what, count in zip(NEEDED, WHAT_FOR, counts, strict=True)
        ],
        rule="---",
    )
    where, why = ON_THE_PAPERS
    yield "On the paper's benchmark, on one machine or from a cluster's head (docs/cluster.md):"
    yield ""
    yield "```sh"
    for command in NEEDED:
        yield f"{_with(command, where)}{why}"
    folders = "results/paper_audit/cifar100 results/paper/cifar100 results/own-preprocessing/paper_audit/cifar100"
    yield f"python -m bench audit {folders} --out audit.md  # not run: of the launches above"
    yield "```"
    yield ""
    yield (
        "The grid and its repetition with the other preprocessing train 120 models each, the search 113 (docs/cost.md "
        "has the hours of these). Fewer rows cost less: `--set search.rank.choices=[8] --set search.p.choices=[3]`; a "
        "launch that was cut goes on."
    )


def _with(command: str, flags: str) -> str:
    """A launch's command with further flags behind its study."""
    words = command.split(" ")
    place = words.index("--study") + 2
    return " ".join(words[:place]) + flags + "".join(f" {word}" for word in words[place:])
