"""Trials to answer searches from: ``python -m tests.performance.grid --out docs/grid.csv``.

Every line is one reading of one trial on benchmark tiny, on validation data. What a trial ends with is taken from
docs/learning-rates.csv, where it was recorded with the same seed; on the way it is read here, of a part of the source,
up to the last step at which a search may end a trial early. The ends are written first, so that the file is a grid at
any time; a trial that was not read on the way is one that no search ends early. A file that is there is gone on with.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import trial as trials
from bench.cluster.search_replay import COLUMNS
from bench.launching import benchmarks, studies
from bench.readings import Point, scores
from bench.spec import Benchmark, parse
from tests.performance import rates

ENDS = Path(__file__).parents[2] / "docs" / "learning-rates.csv"
EVERY, LAST = 10, 40
"""A trial is read every so many steps, up to this one."""

PART = {"source.per_class": 50, "source.queries": 20}
"""So many images of each class of the source are read on the way."""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.grid", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV file, appended to")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="begin no trial after so long")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Record what the file does not hold yet."""
    args = arguments().parse_args(argv)
    end = time.monotonic() + 60 * args.minutes
    torch.set_num_threads(1)
    known = _known(args.out)
    with args.out.open("a", newline="") as file:
        lines = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not known:
            lines.writeheader()
        lines.writerows(last for last in _ends() if (*_key(last), True) not in known)
        for last in _ends():
            if (*_key(last), False) in known:
                continue
            if time.monotonic() > end:
                return 1
            lines.writerows(_on_the_way(last))
            file.flush()
    return 0


def _key(line: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(line[name]) for name in COLUMNS[:4])


def _known(path: Path) -> set[tuple[str | bool, ...]]:
    """What the file holds: of each trial its end (True), and what was read before (False)."""
    if not path.is_file():
        return set()
    with path.open(newline="") as file:
        return {(*_key(line), line["step"] == line["steps"]) for line in csv.DictReader(file)}


def _ends() -> Iterator[dict[str, Any]]:
    """The last reading of every trial that was recorded and did not diverge, as far as studies search there."""
    steps = benchmarks.get("tiny").train.steps
    values = {(method, rates.named(row)): json.dumps(row) for method, row in rates.ROWS}
    with ENDS.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["backbone"] != "tiny" or line["status"] != "ok":
                continue
            if not _searched(line["method"], float(line["lr"])):
                continue
            source, forgetting = float(line["source"]), float(line["forgetting"])
            key = (line["method"], values[line["method"], line["row"]], f"{float(line['lr']):g}", line["seed"])
            read = (steps, steps, float(line["target"]), source, round(source + forgetting, 6))
            yield dict(zip(COLUMNS, (*key, *read), strict=True))


def _searched(method: str, rate: float) -> bool:
    """Whether a learning rate lies in the range of the method's study, or is the first one beyond it."""
    space = studies.load(method).studies[0].search["lr"]
    assert space.low is not None
    assert space.high is not None
    low = max((one for one in rates.RATES if one <= space.low), default=min(rates.RATES))
    high = min((one for one in rates.RATES if one >= space.high), default=max(rates.RATES))
    return low <= rate <= high


def _on_the_way(last: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The readings of a trial before its end, of which no more is trained."""
    benchmark = benchmarks.adapted(benchmarks.get("tiny"), PART)
    train = parse(type(benchmark.train), {**benchmark.train.model_dump(), "val_every": EVERY}, where="train")
    points: list[Point] = []

    def report(point: Point) -> None:
        points.extend([point] if point.readings else [])
        if point.step >= LAST:
            raise trials.TrialStopped

    values = {**json.loads(last["values"]), "lr": float(last["lr"])}
    trials.run(_trial(benchmark.model_copy(update={"train": train}), last, values), report)
    for point in points:
        read = scores(point.readings)
        known = {name: read.get(name) for name in COLUMNS[6:]}
        yield {**last, "step": point.step, **{name: value and round(value, 6) for name, value in known.items()}}


def _trial(benchmark: Benchmark, last: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    return rates.trial(benchmark, last["method"], values, int(last["seed"]))


if __name__ == "__main__":
    raise SystemExit(main())
