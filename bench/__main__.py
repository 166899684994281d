"""``python -m bench``: what there is to do beside running studies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
examples:
  python -m bench list
  python -m bench leaderboard results/block_expansion/tiny     rebuild table and picture from the records
  python -m bench evaluate RECORD                              RECORD: results/<study>/<benchmark>/records/<trial>.json
  python -m bench export RECORD --out model.safetensors        a confirmed trial's model for plain timm
  python -m bench predict model.safetensors picture.png        classify pictures of your own
  python -m bench pretrain tiny                                remake the embedded backbone (minutes on one core)
"""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Work with results and backbones; to run a study, see launch.py --help.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="list studies, benchmarks and methods")
    board = commands.add_parser("leaderboard", help="rebuild a leaderboard from its records")
    board.add_argument("folder", type=Path, help="results/<study>/<benchmark>")
    again = commands.add_parser("evaluate", help="measure a confirmed trial again from its checkpoint")
    again.add_argument("record", type=Path, help="results/<study>/<benchmark>/records/<trial>.json")
    out = commands.add_parser("export", help="write a confirmed trial's model for plain timm")
    out.add_argument("record", type=Path, help="results/<study>/<benchmark>/records/<trial>.json")
    out.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    look = commands.add_parser("predict", help="classify pictures with an exported model")
    look.add_argument("model", type=Path, help="what export wrote")
    look.add_argument("images", type=Path, nargs="+")
    train = commands.add_parser("pretrain", help="remake an embedded backbone")
    train.add_argument("backbone", choices=["tiny"])
    train.add_argument("--out", type=Path, default=Path(__file__).parent / "assets", help="folder to write to")
    train.add_argument("--steps", type=int, default=None, help="optimizer steps (default: the recipe's)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input."""
    args = arguments().parse_args(argv)
    try:
        if args.command == "list":
            return _list()
        if args.command == "leaderboard":
            return _leaderboard(args.folder)
        if args.command == "evaluate":
            return _evaluate(args.record)
        if args.command == "export":
            return _export(args.record, args.out)
        if args.command == "predict":
            return _predict(args.model, args.images)
        return _pretrain(args.out, args.steps)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list() -> int:
    from bench import preflight

    print(preflight.listing())
    return 0


def _leaderboard(folder: Path) -> int:
    from rich.console import Console

    from bench import leaderboard, records

    board = leaderboard.build(records.read_all(folder / "records"))
    leaderboard.write(board, folder)
    Console().print(leaderboard.table(board))
    print(f"written to {folder}")
    return 0


def _evaluate(record: Path) -> int:
    from bench import checkpoints

    found = checkpoints.evaluate(record)
    folder = record.parent.parent / "evaluation" / record.stem
    checkpoints.write_evaluation(found, folder)
    print(f"{'':<24}{'now':>9}{'record':>9}")
    for name, value in found.scores.items():
        print(f"{name:<24}{value:>9.3f}{getattr(found.record, name):>9.3f}")
    print(f"{'target top-5':<24}{found.target_top5:>9.3f}")
    print(f"largest deviation from the record: {found.deviation:g} points")
    print(f"accuracy by class and confusion matrix: {folder}")
    return 0


def _export(record: Path, out: Path) -> int:
    from bench import checkpoints

    lines = checkpoints.export(record, out)
    print(f"written to {out}; load it with timm alone:\n")
    print("\n".join(lines))
    return 0


def _predict(model: Path, images: Sequence[Path]) -> int:
    from bench import checkpoints

    for found in checkpoints.predict(model, images):
        best = [f"class {c} {p:.1f} %" for c, p in zip(found.classes, found.percent, strict=True)]
        print(f"{found.image}: {', '.join(best)}")
    return 0


def _pretrain(out: Path, steps: int | None) -> int:
    from rich.progress import track

    from bench.pretrain import Recipe, pretrain_tiny

    recipe = Recipe() if steps is None else Recipe(steps=steps)
    facts = pretrain_tiny(out=out, recipe=recipe, track=track(range(recipe.steps), description="pre-training"))
    print(f"k-NN accuracy on the source: {facts['knn']}")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
