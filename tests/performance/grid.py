"""Trials to answer searches from: ``python -m tests.performance.grid --out docs/grid.csv``.

Every line is one reading of one trial on benchmark tiny, on validation data: of every method and row value, at 24
learning rates over the range that the method's study searches, with three seeds. A trial is trained twice: once to its
end, and once up to the last step at which a search may end it early, with readings of a part of the source on the way.
A file that is there is gone on with; several processes can share the work, each with a file of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench import trial as trials
from bench.cluster.search_replay import COLUMNS
from bench.launching import benchmarks, studies
from bench.readings import Point, scores
from bench.spec import Benchmark, Trial, parse
from tests.performance import rates

RATES = 24
"""So many learning rates, evenly over the logarithm, ends included."""

EVERY, LAST = 10, 40
"""A trial is read every so many steps, up to this one."""

PART = {"source.per_class": 50, "source.queries": 20}
"""So many images of each class of the source are read on the way."""


class Recorded(NamedTuple):
    """A trial of the grid."""

    method: str
    values: Mapping[str, Any]
    lr: float
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """As the file has it."""
        return (self.method, json.dumps(self.values), f"{self.lr:g}", str(self.seed))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.grid", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV file, appended to")
    parser.add_argument("--methods", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")
    parser.add_argument("--share", default="1/1", metavar="I/N", help="every Nth trial, from the Ith on")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Record what the file does not hold yet."""
    args = arguments().parse_args(argv)
    first, step = map(int, args.share.split("/"))
    torch.set_num_threads(1)
    known = rates.known_of(args.out, COLUMNS[:4])
    with args.out.open("a", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not known:
            lines.writeheader()
        for one in list(_all(args.methods, args.seeds))[first - 1 :: step]:
            if one.key in known:
                continue
            lines.writerows(_lines(one))
            file.flush()
            print(*one.key, flush=True)
    return 0


def _all(methods: Sequence[str] | None, seeds: Sequence[int]) -> Iterator[Recorded]:
    for seed in seeds:
        for place in range(RATES):
            for method, values in rates.ROWS:
                if not methods or method in methods:
                    yield Recorded(method, values, _rates(method)[place], seed)


def _rates(method: str) -> list[float]:
    space = studies.load(method).studies[0].search["lr"]
    assert space.low is not None
    assert space.high is not None
    return [float(f"{rate:.4g}") for rate in np.geomspace(space.low, space.high, RATES)]


def _lines(one: Recorded) -> list[dict[str, Any]]:
    """All readings of a trial; none where it diverges."""
    benchmark = benchmarks.get("tiny")
    record = trials.run(_trial(benchmark, one))
    if record.status != "ok":
        return []
    return [*_on_the_way(one), _line(one, benchmark.train.steps, record.scores)]


def _on_the_way(one: Recorded) -> Iterator[dict[str, Any]]:
    """The readings of the trial before its end, of which no more is trained."""
    benchmark = benchmarks.adapted(benchmarks.get("tiny"), PART)
    train = parse(type(benchmark.train), {**benchmark.train.model_dump(), "val_every": EVERY}, where="train")
    points: list[Point] = []

    def report(point: Point) -> None:
        points.extend([point] if point.readings else [])
        if point.step >= LAST:
            raise trials.TrialStopped

    trials.run(_trial(benchmark.model_copy(update={"train": train}), one), report)
    for point in points:
        yield _line(one, point.step, scores(point.readings))


def _line(one: Recorded, step: int, read: Mapping[str, float | None]) -> dict[str, Any]:
    numbers = (read.get(name) for name in COLUMNS[6:])
    rounded = (number and round(number, 4) for number in numbers)
    return dict(zip(COLUMNS, (*one.key, step, benchmarks.get("tiny").train.steps, *rounded), strict=True))


def _trial(benchmark: Benchmark, one: Recorded) -> Trial:
    return rates.trial(benchmark, one.method, {**one.values, "lr": one.lr}, one.seed)


if __name__ == "__main__":
    raise SystemExit(main())
