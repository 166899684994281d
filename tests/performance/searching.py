"""How near searches come to the true fronts at equal cost: ``python -m tests.performance.searching``.

Searches are replayed over docs/grid.csv (:mod:`bench.cluster.search_replay`): every method of the study ``pareto``
with a search of its own, as far as the grid holds its values. The truth is the mean over the recorded seeds. A search
measures one of them, and the next search the next, with the noise of 300 target images and 1000 source queries; it is
judged by the truth of its trials. Each has so many optimizer steps as its number of trials takes without pruning.
docs/search.md holds the table.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.cluster.search_replay import Curve, Grid, Noise, Read, Replayed, ends, replay
from bench.launching import benchmarks, studies
from bench.launching.replaying import hypervolume
from bench.records import Record
from bench.spec import Study, Trial

GRID = Path(__file__).parents[2] / "docs" / "grid.csv"
NOISE = Noise(target=300, source=1000, points=0.0)
SLOTS = 2
SEARCHES = 10
LIMIT = 2.0
"""Points that may be forgotten where the highest target accuracy under a constraint is looked for."""

HELD: Mapping[str, Sequence[str]] = {
    "full": (),
    "l2_sp": ("search.alpha={choices: [0.01]}",),
    "layer_decay": ("search={lr: {low: 0.0003, high: 0.3, log: true}}", "rows=[]"),
    "top_k": ("search.k.choices=[3]",),
    "linear": (),
    "lora": ("search.rank.choices=[8]",),
    "block_expansion": ("search.p.choices=[1, 3]", "rows=[]"),
}
"""Every method, with what of its space the grid holds; ``wise_ft`` trains as ``full`` does."""

FRONT = "objective=[target_accuracy, source_accuracy]"
UNDER = f"objective={{maximise: target_accuracy, subject_to: {{forgetting: {{max: {LIMIT:g}}}}}}}"
PRUNED = ("scheduler=asha", "train.val_every=10")
STRATEGIES: Mapping[str, Sequence[str]] = {
    "random": (FRONT, "sampler=random"),
    "quasi-random": (FRONT, "sampler=qmc"),
    "random + pruning": (FRONT, "sampler=random", *PRUNED),
    "TPE": (FRONT, "sampler=tpe"),
    "TPE + pruning": (FRONT, "sampler=tpe", *PRUNED),
    "TPE, constrained": (UNDER, "sampler=tpe"),
    "TPE, constrained + pruning": (UNDER, "sampler=tpe", *PRUNED),
}

TRIES = 4
"""So often a number of trials is looked for that takes as long as those without pruning."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.searching", allow_abbrev=False)
    parser.add_argument("--grid", type=Path, default=GRID, metavar="FILE", help="recorded grid")
    parser.add_argument("--trials", type=int, nargs="*", default=[8, 16], metavar="N", help="of a search, unpruned")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=list(STRATEGIES), metavar="NAME")
    parser.add_argument("--searches", type=int, default=SEARCHES, metavar="N", help="with seeds 0 to N - 1")
    args = parser.parse_args(argv)
    grid = Grid.read(args.grid)
    truth = mean(grid)
    print("| trials | strategy | trials in all | hypervolume regret | regret under the limit |\n|---|---|---|---|---|")
    for trials in args.trials:
        for name in args.strategies:
            found = [_search(grid, truth, STRATEGIES[name], trials, seed) for seed in range(args.searches)]
            counts, fronts, limits = zip(*found, strict=True)
            shown = f"{_median(fronts)} | {_median(limits)}"
            print(f"| {trials} | {name} | {statistics.fmean(counts):.1f} | {shown} |", flush=True)
    return 0


def mean(grid: Grid) -> Grid:
    """A grid whose curves are the means over the seeds of another, at the learning rates that all seeds have."""
    return Grid({key: {0: _means(list(by_seed.values()))} for key, by_seed in grid.curves.items()})


def _means(seeds: Sequence[Sequence[Curve]]) -> list[Curve]:
    held = [{curve.place: curve for curve in curves} for curves in seeds]
    return [_mean([curves[place] for curves in held]) for place in sorted(set.intersection(*map(set, held)))]


def _mean(curves: Sequence[Curve]) -> Curve:
    steps = sorted(set.intersection(*(set(curve.read) for curve in curves)))
    read = {
        step: Read(*map(statistics.fmean, zip(*(curve.read[step] for curve in curves), strict=True))) for step in steps
    }
    return replace(curves[0], before=statistics.fmean(curve.before for curve in curves), read=read)


def _search(grid: Grid, truth: Grid, overrides: Sequence[str], trials: int, seed: int) -> tuple[float, float, float]:
    """Trials a method, and both regrets in points, as means over all methods."""
    found = []
    for method, held in HELD.items():
        study = studies.load(method, overrides=[*held, *overrides, "lag=2", f"search_seed={seed}"]).studies[0]
        searched = _at_equal_cost(study, grid, trials, seed)
        true = truth.front(method)
        reached = [_true(truth, one.record) for one in searched if one.record.status == "ok"]
        before = max(source for _, source in true)
        front = hypervolume(true) - hypervolume(reached)
        limit = _under(true, before) - _under(reached, before)
        found.append((float(len(searched)), front, limit))
    counts, fronts, limits = zip(*found, strict=True)
    return statistics.fmean(counts), statistics.fmean(fronts), statistics.fmean(limits)


def _at_equal_cost(study: Study, grid: Grid, trials: int, seed: int) -> list[Replayed]:
    """As many trials as the steps of so many whole ones allow."""
    benchmark, count = benchmarks.get("tiny"), trials
    best: list[Replayed] = []
    for _ in range(TRIES):
        own = study.model_copy(update={"trials": count})
        found = replay(own, benchmark, grid, slots=SLOTS, seed=seed, noise=NOISE)
        share = trials * benchmark.train.steps / sum(one.record.steps for one in found)
        if share >= 1 and len(found) > len(best):
            best = found
        if study.scheduler == "none":
            return found
        count = max(trials, min(int(count * share), count - 1) if share < 1 else int(count * share))
    return best


def _true(grid: Grid, record: Record) -> tuple[float, float]:
    """Target and source accuracy of a trial without noise."""
    ((target, source),) = ends([Replayed(grid.record(Trial.model_validate(record.config)), 0)])
    return target, source


def _under(points: Sequence[tuple[float, float]], before: float) -> float:
    """The highest target accuracy that keeps the limit; 0 where nothing does."""
    return max((target for target, source in points if before - source <= LIMIT), default=0.0)


def _median(values: Sequence[float]) -> str:
    """The median, and the second lowest and highest value: of ten they hold the true median in 98 of 100 cases."""
    ordered = sorted(values)
    low, high = (ordered[1], ordered[-2]) if len(ordered) > 2 else (ordered[0], ordered[-1])
    return f"{statistics.median(ordered):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())
