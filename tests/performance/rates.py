"""What every method learns and forgets over the learning rate: ``python -m tests.performance.rates --out FILE.csv``.

The ranges of ``search_spaces/`` are chosen from these curves (docs/learning-rates.md). Every line of the file is one
trial, measured on validation data; a file that is there is gone on with.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import trial as trials
from bench.launching import benchmarks, studies
from bench.launching.changes import assignment
from bench.spec import Benchmark, Trial, make_trial

ROWS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("full", {}),
    ("linear", {}),
    ("lora", {"rank": 8}),
    ("block_expansion", {"p": 1}),
    ("block_expansion", {"p": 3}),
    ("top_k", {"k": 3}),
    ("l2_sp", {"alpha": 0.01}),
    ("layer_decay", {}),
    ("wise_ft", {}),
)
RATES = tuple(float(f"{10 ** (exponent / 2):.1e}") for exponent in range(-10, 1))
COLUMNS = ("backbone", "method", "row", "lr", "seed", "status", "target", "source", "forgetting")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.rates", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV file, appended to")
    parser.add_argument("--benchmark", default="tiny", metavar="NAME", help="default: tiny")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields, as launch.py takes them")
    parser.add_argument("--methods", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--rates", nargs="*", type=float, default=RATES, metavar="LR", help="default: 1e-5 to 1")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], metavar="SEED", help="default: 0")
    parser.add_argument("--draw", type=Path, metavar="PNG", help="measure nothing: draw the curves of the file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the file does not hold yet."""
    args = arguments().parse_args(argv)
    if args.draw:
        draw(args.out, args.draw)
        return 0
    torch.set_num_threads(1)
    changes = [assignment(text) for text in args.set]
    own = {change.name: change.value for change in changes if change.path[0] in benchmarks.PARTS}
    recipe = {change.path[1]: change.value for change in changes if change.path[0] == "train"}
    benchmark = benchmarks.adapted(benchmarks.get(args.benchmark), own)
    benchmark = benchmark.model_copy(update={"train": benchmark.train.model_copy(update=recipe)})
    benchmark = benchmark.model_copy(update={"head_norm": benchmark.head_norm and benchmark.backbone.name == "tiny"})
    known = known_of(args.out, COLUMNS[:5])
    with args.out.open("a", newline="") as file:
        lines = csv.DictWriter(file, COLUMNS)
        if not known:
            lines.writeheader()
        for line in _lines(benchmark, args, known):
            lines.writerow(line)
            file.flush()
            print(line, flush=True)
    return 0


def known_of(path: Path, columns: Sequence[str]) -> set[tuple[str, ...]]:
    """What some columns of a CSV file hold, line by line; nothing if there is no file."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        return {tuple(line[name] for name in columns) for line in csv.DictReader(file)}


def named(row: Mapping[str, Any]) -> str:
    """A row's values as the file has them."""
    return " ".join(f"{name}={value}" for name, value in row.items())


def _lines(benchmark: Benchmark, args: argparse.Namespace, known: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    for seed in args.seeds:
        for lr in args.rates:
            for method, row in ROWS:
                key = (benchmark.backbone.name, method, named(row), f"{lr:g}", str(seed))
                if key in known or (args.methods and method not in args.methods):
                    continue
                record = trials.run(trial(benchmark, method, {**row, "lr": lr}, seed))
                scores = (record.scores.get(name) for name in ("target_accuracy", "source_accuracy", "forgetting"))
                yield dict(zip(COLUMNS, (*key, record.status, *scores), strict=True))


def trial(benchmark: Benchmark, method: str, values: Mapping[str, Any], seed: int) -> Trial:
    study = studies.load(method).studies[0].model_copy(update={"rows": ()})
    return make_trial(study, benchmark, values, launch="rates", label="rate", seed=seed, phase="search")


def draw(table: Path, picture: Path) -> None:
    """Target and source accuracy over the learning rate, a panel a method, with the range that its study searches."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with table.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["target"]]
    figure, panels = pyplot.subplots(3, 3, figsize=(11, 8), dpi=110, sharex=True, sharey=True, layout="constrained")
    for axes, (method, row) in zip(panels.flat, ROWS, strict=True):
        space = studies.load(method).studies[0].search["lr"]
        axes.axvspan(space.low, space.high, color="0.92", label="searched by default")
        for colour, backbone in zip(
            ("#0072b2", "#d55e00"), dict.fromkeys(line["backbone"] for line in lines), strict=False
        ):
            own = [
                line
                for line in lines
                if (line["backbone"], line["method"], line["row"]) == (backbone, method, named(row))
            ]
            for quantity, style in (("target", "-o"), ("source", "--s")):
                points = sorted((float(line["lr"]), float(line[quantity])) for line in own)
                axes.plot(
                    *zip(*points, strict=True), style, color=colour, markersize=3, label=f"{quantity}, {backbone}"
                )
        axes.set(xscale="log", ylim=(0, 100), title=f"{method} {named(row)}".rstrip())
        axes.grid(alpha=0.25)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=9)
    figure.supxlabel("learning rate")
    figure.supylabel("accuracy on validation data (%)")
    figure.savefig(picture, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
