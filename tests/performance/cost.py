"""What the paper's table costs on an accelerator: ``python -m tests.performance.cost --out docs/cost.md``.

The work is that of the study file and the benchmark; the rates are those that `make gpu` has measured (``--measured``),
else shares of a data sheet's, which the page then says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.launching import benchmarks
from bench.spec import Benchmark
from bench.training.prefix import SHARE
from tests.performance.work_hours import (
    TRAIN,
    Costs,
    How,
    Rates,
    Row,
    confirm_images,
    rows,
    search_images,
    shape_of,
)

RATES = Path("docs/cost-rates.json")


@dataclass(frozen=True)
class Price:
    """Dollars an accelerator hour."""

    where: str
    dollars: float
    date: str
    source: str


def estimated(path: Path, width: int) -> tuple[Rates, list[Price]]:
    """Rates of a data sheet, of which a stated share is reached; and prices."""
    given = json.loads(path.read_text(encoding="utf-8"))
    share, peak = given["share"], given["flops_per_second"]
    rates = Rates(
        device=given["device"],
        memory=given["memory_gib"] * 2**30,
        training={"": share * peak["bf16"]},
        measuring=share * peak["fp32"],
        pairs=share * peak["fp32"] / (2 * width),
        origin=f"**An estimate, nothing here was measured**: {100 * share:.0f} % of {peak['bf16'] / 1e12:.0f} TFLOP/s "
        f"in training (bf16) and of {peak['fp32'] / 1e12:.0f} in measuring (fp32); {given['source']}.",
    )
    return rates, [Price(**price) for price in given["prices"]]


def measured(path: Path, model: str) -> Rates:
    """Rates that `make gpu` has found.

    Raises:
        ValueError: the file holds no such figures, or those of another model.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = {line["name"]: line for part in found["parts"] for line in part["lines"] if line["value"] is not None}
    features = lines.get("features, fp32, from memory")
    faster = lines.get("features, tf32, from memory")
    search = next((line for name, line in lines.items() if "pairs_per_second" in line["facts"]), None)
    if features is None or search is None:
        raise ValueError(f"{path} holds no speed of features or of k-NN: run `make gpu` without --only")
    if features["facts"]["model"] != model:
        raise ValueError(f"{path} was measured with {features['facts']['model']}, and the table is of {model}")
    training = {
        line["facts"]["method"]: line["value"] * line["facts"]["flops_per_image"]
        for name, line in lines.items()
        if name.endswith(", from memory") and "method" in line["facts"]
    }
    machine = found["machine"]
    return Rates(
        device=machine["device"],
        memory=float(machine["memory"].split()[0]) * 2**30,
        training=training,
        measuring=features["value"] * features["facts"]["flops_per_image"],
        pairs=search["facts"]["pairs_per_second"],
        tf32=faster["value"] * faster["facts"]["flops_per_image"] if faster else None,
        origin=f"Rates were measured by `make gpu` with torch {machine['torch']}, timm {machine['timm']}.",
    )


def page(rates: Rates, prices: Sequence[Price], *, views: int, every: int, command: str) -> str:
    """The whole page."""
    benchmark = benchmarks.get("cifar100")
    found, costs = rows("paper", benchmark), Costs(rates, benchmark)
    return (
        "\n".join(
            [
                *_head(rates, prices, found, benchmark, command),
                *_by_row(found, costs),
                *_whole(
                    found,
                    costs,
                    prices,
                    _ways(rates, views, every),
                    views,
                ),
            ]
        )
        + "\n"
    )


def _ways(rates: Rates, views: int, every: int) -> list[How]:
    found = [
        How("`train.share_frozen = false`"),
        How("as the study file has it: prefixes shared when measuring", shared=True),
        How(f"the same, and `train.views = {views}`", shared=True, views=views),
        How(f"pruned: `scheduler = asha`, `train.val_every = {every}`", readings=every),
        How("all three", shared=True, views=views, readings=every),
    ]
    if rates.tf32 is not None:
        found += [
            How("as the study file has it, `measure_precision = tf32`", shared=True, tf32=True),
            How("all four", shared=True, views=views, readings=every, tf32=True),
        ]
    return found


def _head(
    rates: Rates, prices: Sequence[Price], found: Sequence[Row], benchmark: Benchmark, command: str
) -> Iterator[str]:
    train = found[0].trial.train
    steps = " or ".join(f"{steps:,}" for steps in sorted({row.trial.train.steps for row in found}))
    trials, confirmations = sum(row.searched for row in found), sum(row.confirmed for row in found)
    yield "# What a real study costs"
    yield ""
    yield f"Made by `{command}`; do not edit it."
    yield ""
    yield (
        f"The paper's table: `--study paper --benchmark {benchmark.name} --source imagenet1k:<path>`, that is "
        f"{len(found)} rows, {trials:.0f} search trials and {confirmations} confirmations of {steps} steps x "
        f"{train.batch_size} images, {benchmark.backbone.name}. Accelerator hours do not depend on how many there are."
    )
    yield ""
    yield f"Device: {rates.device}. {rates.origin}"
    yield ""
    for price in prices:
        dated = ", ".join(filter(None, (price.date, price.source)))
        yield f"- ${price.dollars:.2f} an hour: {price.where}" + (f" ({dated})" if dated else "")
    yield ""
    yield (
        "Not in the figures: starting, reading and decoding pictures beyond what the device waits for, failed trials, "
        "and several workers' exchange of gradients. Operations are counted by torch on the models' shapes; measuring "
        "is in fp32 where nothing else is said, and a k-NN search takes every pair of a query and a bank image. The "
        "untouched backbone is measured once, and a linear probe's source accuracy is its."
    )
    yield ""


def _by_row(found: Sequence[Row], costs: Costs) -> Iterator[str]:
    yield "## A trial of each row"
    yield ""
    yield "| row | GFLOP an image, step | forwards | training, h | measured: search | 50 a class | all a class |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    plain, benchmark = How(""), found[0].trial.benchmark
    places = (search_images(benchmark), confirm_images(50), confirm_images(None))
    for row in found:
        hours = [costs.training(row, plain, row.trial.train.steps)]
        hours += [costs.measuring(row, plain, images, 1) for images in places]
        counts = (row.counts.step / 1e9, row.counts.image / 1e9)
        yield f"| {row.name} | " + " | ".join([*(f"{n:.1f}" for n in counts), *(f"{h:.2f}" for h in hours)]) + " |"
    yield ""


def _whole(
    found: Sequence[Row], costs: Costs, prices: Sequence[Price], ways: Sequence[How], views: int
) -> Iterator[str]:
    yield "## The whole table"
    yield ""
    yield "| | search, h | with 50 a class, h | dollars | with all a class, h | dollars |"
    yield "|---|---:|---:|---:|---:|---:|"
    benchmark = found[0].trial.benchmark
    for how in ways:
        search = sum(costs.search(row, how) for row in found) + costs.untouched(search_images(benchmark), how)
        cells = [f"{search:.1f}"]
        for per_class in (50, None):
            confirm = sum(costs.confirm(row, how, per_class) for row in found)
            whole = search + confirm + costs.untouched(confirm_images(per_class), how)
            cells += [f"{whole:.1f}", " / ".join(f"{price.dollars * whole:,.0f}" for price in prices)]
        yield f"| {how.name} | " + " | ".join(cells) + " |"
    yield ""
    plain = How("")
    trained = sum((row.searched + row.confirmed) * costs.training(row, plain, row.trial.train.steps) for row in found)
    yield (
        f"Training takes {trained:.1f} hours of the first line; the others are spent on measuring. A pruned trial is "
        f"measured at each of its readings, source included, which can take longer than the steps that it is spared."
    )
    yield ""
    fit = [row.name for row in found if costs.views_fit(row, How("", views=views))]
    yield (
        f"Activations may take {100 * SHARE:.0f} % of the device's memory. {views} views of {TRAIN:,} images fit for: "
        f"{', '.join(fit) or 'no row'}; the other rows are trained as without views. Sets that are measured are kept, "
        f"the smallest first, as far as there is room."
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.cost", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rates", type=Path, default=RATES, help=f"estimated rates, prices (default: {RATES})")
    parser.add_argument("--measured", type=Path, metavar="JSON", help="rates that `make gpu` has measured, instead")
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="WHERE=DOLLARS",
        help="an accelerator hour, instead of the file's",
    )
    parser.add_argument("--views", type=int, default=8, help="of every training image (default: 8)")
    parser.add_argument("--every", type=int, default=2500, help="steps between readings, if pruned (default: 2500)")
    parser.add_argument("--out", type=Path, help="file to write; the screen if left out")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for bad input."""
    parser = arguments()
    args = parser.parse_args(argv)
    if args.views < 1 or not 1 <= args.every <= benchmarks.PAPER.steps:
        parser.error(f"--views must be at least 1, and --every from 1 to {benchmarks.PAPER.steps:,}")
    benchmark = benchmarks.get("cifar100")
    try:
        own = [price_of(text) for text in args.price]
        rates, prices = estimated(args.rates, shape_of(benchmark.backbone)[1])
        if args.measured:
            rates = measured(args.measured, benchmark.backbone.name)
        prices = own or prices
        text = page(rates, prices, views=args.views, every=args.every, command=command_of(args))
    except json.JSONDecodeError as error:
        parser.error(f"{args.measured or args.rates} is no JSON: {error}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


def price_of(text: str) -> Price:
    """``WHERE=DOLLARS``.

    Raises:
        ValueError: it is none.
    """
    where, equals, dollars = text.rpartition("=")
    try:
        value = float(dollars)
    except ValueError:
        value = float("nan")
    if not (where and equals and 0 <= value < float("inf")):
        raise ValueError(f"--price {text!r}: give a place and dollars an hour, as in --price 'our cluster=1.20'")
    return Price(where, value, "", "")


def command_of(args: argparse.Namespace) -> str:
    """The command that makes the same page again."""
    parts = ["python -m tests.performance.cost"]
    parts += [f"--rates {args.rates.as_posix()}"] * (args.rates != RATES)
    parts += [f"--measured {args.measured.as_posix()}"] if args.measured else []
    parts += [f"--price '{price}'" for price in args.price]
    parts += [f"--views {args.views}"] * (args.views != 8) + [f"--every {args.every}"] * (args.every != 2500)
    return " ".join([*parts, "--out docs/cost.md"])


if __name__ == "__main__":
    sys.exit(main())
