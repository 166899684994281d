#!/usr/bin/env python3
"""The front door: run a study on this machine or on a Ray cluster. ``python launch.py --help`` teaches the rest."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

EPILOG = """\
examples:
  python launch.py --list                                      what there is
  python launch.py --study block_expansion --dry-run           what would run, and on what
  python launch.py --study block_expansion                     the embedded benchmark: no download, no GPU
  python launch.py --study lora --trials 6 --seeds 0 1         fewer trials, two seeds
  python launch.py --study lora --set train.steps=100 --set search.lr.high=0.1
  python launch.py --study paper --num-workers 2 --slots 1     five methods, two DDP processes a trial
  python launch.py --study block_expansion --address auto      on the Ray cluster of this machine, as in shells and jobs
                                                               of a head that `ray up cluster.yaml` started

an unfinished launch: the same command goes on where it stopped; --fresh starts anew.
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
        from bench.spec.text import LONGEST_MESSAGE, printable

        print(f"error: {printable(message)[:LONGEST_MESSAGE]}", file=sys.stderr)
        raise SystemExit(2)


def arguments() -> Parser:
    """The command line."""
    from bench.launching.request import add_flags

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
    add_flags(parser)
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
    from bench.launching import screen

    screen.tolerate()
    parser = arguments()
    args = parser.parse_strictly(argv)
    from bench.launching import listing, preflight
    from bench.launching.request import Request
    from bench.spec import SpecError, printable, sentence

    if args.list:
        print(printable(listing.listing(), keep="\n"))
        return 0
    try:
        launch = preflight.prepare(Request.parsed(args))
        if args.dry_run:
            from bench.launching import plans

            preflight.rehearse(launch)
            print(printable(plans.describe(launch), keep="\n"))
            return 0
        if launch.options.replay is not None:
            from bench.launching import replaying

            print(printable(replaying.text(launch, launch.options.replay), keep="\n"))
            return 0
        from bench.launching import study

        return study.run(launch)
    except BrokenPipeError:
        raise
    except (SpecError, OSError) as error:
        parser.error(sentence(error))


INTERRUPTED = """\
interrupted; the records of finished trials are kept: the same command (without --fresh) goes on from them"""

if __name__ == "__main__":
    from bench.launching.command import exit_code, leave

    leave(exit_code(main, interrupted=INTERRUPTED))
