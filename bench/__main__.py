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
