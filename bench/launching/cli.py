"""The command line of a launch: ``launch.py`` in a clone, ``vit-forgetting-bench launch`` where it is installed."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from bench.launching import signals

if TYPE_CHECKING:
    from bench.launching.launch import Launch
    from bench.reporting.events import Event

IN_A_CLONE = "python launch.py"

EPILOG = """\
examples:
  what there is
    {run} --list
  what would run, and on what
    {run} --study block_expansion --dry-run
  the embedded benchmark: no download, no GPU
    {run} --study block_expansion
  fewer trials, two seeds
    {run} --study lora --trials 6 --seeds 0 1
  other fields: of the recipe, of the search
    {run} --study lora --set train.steps=100
    {run} --study lora --set search.lr.high=0.1
  five methods, two DDP processes a trial
    {run} --study paper --num-workers 2 --slots 1
  on the Ray cluster of this machine, as in shells and jobs of a head that
  `ray up cluster.yaml` started
    {run} --study block_expansion --address auto

an unfinished launch: the same command goes on where it stopped; --fresh starts
anew. results: <results>/<study>/<benchmark>/ holds leaderboard.md, .csv, .json,
pareto.png, index.html and one record per trial; MLflow shows the same with all
curves:
`mlflow ui --backend-store-uri sqlite:///results/mlflow.db`
"""

INTERRUPTED = """\
interrupted; the records of finished trials are kept: the same command (without --fresh) goes on from them"""


class Parser(argparse.ArgumentParser):
    """An argument parser that knows what an unknown option was meant to be, and refuses by an event where asked to."""

    events = False
    """Whether a refusal is an event as well."""

    def parse_strictly(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse; an unknown option ends the program with exit code 2 and the nearest known one."""
        self.events = "--json" in (sys.argv[1:] if arguments is None else arguments)
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            word = unknown[0].split("=")[0]
            near = difflib.get_close_matches(word, list(self._option_string_actions), n=1)
            self.error(f"unknown argument {word!r}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
        return parsed

    def error(self, message: str) -> NoReturn:
        """One sentence, exit code 2."""
        from bench.spec import printable
        from bench.spec.text import LONGEST_MESSAGE

        if self.events:
            from bench.reporting.events import Ended

            _emit(Ended(status="refused", exit_code=2, text=message))
        print(f"error: {printable(message)[:LONGEST_MESSAGE]}", file=sys.stderr)
        raise SystemExit(2)


def arguments(run: str = IN_A_CLONE) -> Parser:
    """The command line.

    Args:
        run: what is typed before the options.
    """
    from bench.launching.request import add_flags

    parser = Parser(
        prog=run.removeprefix("python "),
        description="Search and rank fine-tuning methods by what they learn and what they forget.",
        epilog=EPILOG.format(run=run),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--study", metavar="NAME", help="a study of --list, or the path of a .yaml file of yours")
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


def main(argv: Sequence[str] | None = None, *, run: str = IN_A_CLONE) -> int:
    """Carry out a command line.

    Args:
        argv: the options; those of the process if None.
        run: what was typed before them.

    Returns:
        The exit code: 0 done, 1 every trial failed, 2 bad input.
    """
    from bench.launching import screen

    screen.tolerate()
    parser = arguments(run)
    args = parser.parse_strictly(argv)
    from bench.launching import listing, preflight
    from bench.launching.request import Request
    from bench.spec import SpecError, sentence

    if args.list:
        screen.show(listing.listing())
        return 0
    try:
        request = Request.parsed(args)
        parser.events = request.options.json_lines
        with contextlib.redirect_stdout(sys.stderr):  # what libraries say of a download is no answer
            launch = preflight.prepare(request)
        if args.dry_run:
            return _rehearse(launch)
        if launch.options.replay is not None:
            from bench.launching import replaying

            screen.show(replaying.text(launch, launch.options.replay))
            return 0
        from bench.launching import study

        return study.run(launch)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as error:
        if parser.events and signals.TOLD not in getattr(error, "__notes__", []):
            _interrupted()
        raise
    except (SpecError, OSError) as error:
        parser.error(sentence(error))


def _interrupted() -> None:
    """A launch that has started nothing yet is ended by a signal."""
    from bench.reporting.events import Ended

    code = 128 + (signals.received() or signal.SIGINT)
    _emit(Ended(status="interrupted", exit_code=code, text="interrupted before anything was started"))


def _rehearse(launch: Launch) -> int:
    """Check what a launch checks before it starts anything, and show its plan."""
    from bench.launching import preflight, screen
    from bench.reporting.events import Ended

    ended = Ended(status="done", exit_code=0, text="nothing was started (--dry-run)")
    if launch.options.replay is not None:
        from bench.launching import replaying

        plan = replaying.describe(launch, launch.options.replay)
        _emit(ended) if launch.options.json_lines else screen.show(plan)
        return 0
    preflight.rehearse(launch)
    if launch.options.json_lines:
        _emit(launch.announced(launch.plan))
        _emit(ended)
    else:
        from bench.launching import plans

        screen.show(plans.describe(launch))
    return 0


def _emit(event: Event) -> None:
    print(event.model_dump_json(), flush=True)
