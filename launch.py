#!/usr/bin/env python3
"""The front door: run a study on this machine or on a Ray cluster. ``python launch.py --help`` teaches the rest."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

EPILOG = """\
examples:
  python launch.py --list                                      what there is
  python launch.py --study block_expansion --dry-run           what would run, and on what
  python launch.py --study block_expansion                     the embedded benchmark: no download, no GPU
  python launch.py --study lora --trials 6 --seeds 0 1         fewer trials, two seeds
  python launch.py --study lora --set train.steps=100 --set search.lr.high=0.1
  python launch.py --study paper --num-workers 2 --slots 1     five methods, two DDP processes a trial
  python launch.py --study block_expansion --address auto      on the cluster that `ray up cluster.yaml` started

results: <results>/<study>/<benchmark>/ holds leaderboard.md, .csv, .json, pareto.png and one record per trial;
`mlflow ui --backend-store-uri sqlite:///results/mlflow.db` shows the same with all curves.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that knows what an unknown option was meant to be."""

    def parse_strictly(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse; an unknown option ends the program with exit code 2 and the nearest known one."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            word = unknown[0].split("=")[0]
            near = difflib.get_close_matches(word, list(self._option_string_actions), n=1)
            self.error(f"unknown argument {word!r}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
        return parsed

    def error(self, message: str) -> NoReturn:
        """One sentence, exit code 2."""
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def seeds(text: str) -> list[int]:
    """One word of ``--seeds``: a number, or several with commas between them."""
    return [int(part) for part in text.split(",") if part.strip()]


def arguments() -> Parser:
    """The command line."""
    parser = Parser(
        prog="launch.py",
        description="Search, confirm and rank fine-tuning methods by what they learn and what they forget.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--study", metavar="NAME", help="a file of search_spaces/ (without .yaml), or a path to one")
    add(
        "--benchmark",
        metavar="NAME",
        default="tiny",
        help="backbone, source and target, or folder:<path> for a target of yours (default: tiny, embedded)",
    )
    add("--backbone", metavar="NAME", help="another backbone: a timm ViT, such as vit_base_patch16_224.dino")
    add("--weights", metavar="FILE", help="its weights from a local file (safetensors, timm, DINO), or random")
    add("--image-size", type=int, metavar="PIXELS", help="input size, if not the backbone's own")
    add("--source", metavar="NAME", help="another source, such as imagenet1k:/data/imagenet or folder:/data/birds")
    add("--source-per-class", type=int, metavar="N", help="bank images of each class while searching (default: all)")
    add("--target", metavar="NAME", help="another target, such as folder:/data/birds")
    add("--bad-images", choices=["error", "skip"], help="what an image file that cannot be read does (default: error)")
    add("--trials", type=int, metavar="N", help="search trials of each method")
    add("--seeds", type=seeds, nargs="+", metavar="SEED", help="seeds of the confirmation, such as 0 1 2 or 0,1,2")
    add("--num-workers", type=int, default=1, metavar="N", help="DDP processes of one trial (default: 1)")
    add(
        "--slots",
        type=int,
        metavar="M",
        help="trials at once (default: as many as there are GPUs, else cores)",
    )
    add(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to run on: auto, or host:port (default: this machine)",
    )
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="where to write (default: results)",
    )
    add("--tracking-uri", metavar="URI", help="MLflow store (default: SQLite in the results folder)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="override any field, such as train.steps=100, search.lr.high=0.1 or source.per_class=50; repeatable",
    )
    add("--dry-run", action="store_true", help="check everything and print the plan; start nothing")
    add("--list", action="store_true", help="list studies, benchmarks and methods")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 every trial failed, 2 bad input."""
    parser = arguments()
    args = parser.parse_strictly(argv)
    from bench import preflight
    from bench.spec import SpecError

    if args.list:
        print(preflight.listing())
        return 0
    try:
        launch = preflight.prepare(
            study=args.study,
            benchmark=args.benchmark,
            backbone=args.backbone,
            weights=args.weights,
            image_size=args.image_size,
            source=args.source,
            source_per_class=args.source_per_class,
            bad_images=args.bad_images,
            target=args.target,
            trials=args.trials,
            seeds=[seed for word in args.seeds for seed in word] if args.seeds else None,
            workers=args.num_workers,
            slots=args.slots,
            address=args.address,
            results=args.results,
            tracking_uri=args.tracking_uri,
            overrides=args.overrides,
        )
        if args.dry_run:
            print(launch.describe())
            return 0
        return launch.run()
    except SpecError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the records of finished trials are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
