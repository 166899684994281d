"""``python -m bench``, installed as ``vit-forgetting-bench``: launches, and what there is to do with their results."""

from __future__ import annotations

import argparse
import functools
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from bench import checkpoints
    from bench.folder import LaunchFolder
    from bench.records import Record

RESULTS = Path("results")
RUN_ID = re.compile(r"[0-9a-f]{32}")

AS_MODULE, INSTALLED = "python -m bench", "vit-forgetting-bench"
"""How it is called: from a clone, and where the package was installed."""

EPILOG = """\
examples:
  studies, benchmarks and methods
    {run} list
  run a study; its own options: {run} launch --help
    {run} launch --study block_expansion
  rebuild table, picture and page from the records; of all launches, and one
  page over them
    {run} leaderboard results/block_expansion/tiny
    {run} leaderboard results
  two rows; or two launch folders, row by row
    {run} compare "results/paper/tiny:lora rank=8" linear
  what of the paper's numbers comes from its protocol (docs/audit.md)
    {run} audit results/paper_audit/tiny results/paper/tiny
  measure a confirmed trial again; RECORD is a file of
  results/<study>/<benchmark>/records/, or the id of the trial's MLflow run
    {run} evaluate RECORD
  a confirmed trial's model for plain timm, or into MLflow's model registry
    {run} export RECORD --out model.safetensors
    {run} export RECORD --mlflow-model birds
  classify pictures of your own, or folders of them
    {run} predict model.safetensors picture.png
  bring what MLflow lacks, from the records; of all launches, to another store
    {run} sync results/paper/tiny
    {run} sync results --tracking-uri http://host:5000
  one file of a launch, to be published or kept; and check it elsewhere
    {run} pack results/paper/tiny --checkpoints
    {run} unpack paper-tiny.tar.gz --evaluate
  remake the embedded backbone (minutes on one core)
    {run} pretrain tiny
"""


def arguments(run: str = AS_MODULE) -> argparse.ArgumentParser:
    """The command line.

    Args:
        run: what is typed before the command.
    """
    parser = argparse.ArgumentParser(
        prog=run,
        description="Run studies, and work with their results and models.",
        epilog=EPILOG.format(run=run),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="list studies, benchmarks and methods")
    commands.add_parser("launch", help="run a study, as launch.py does in a clone", add_help=False)
    board = commands.add_parser("leaderboard", help="rebuild leaderboards from records, and a page over several")
    board.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="results/<study>/<benchmark>, or results"
    )
    board.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="where to write the page over several launches (default: leaderboards.html in the current folder)",
    )
    board.add_argument(
        "--forgetting-limit",
        type=float,
        metavar="POINTS",
        help="points that a row may forget where the best of those is named (default: the study's own limit, or 10)",
    )
    _add_comparisons(commands)
    again = commands.add_parser("evaluate", help="measure a confirmed trial again from its checkpoint")
    _add_record(again)
    again.add_argument(
        "--device", choices=["cpu", "cuda"], help="where to measure (default: where the record was made)"
    )
    out = commands.add_parser("export", help="write a confirmed trial's model for plain timm, or register it in MLflow")
    _add_record(out)
    out.add_argument("--out", type=Path, metavar="FILE", help="safetensors file to write")
    out.add_argument("--mlflow-model", metavar="NAME", help="name to register it under in the MLflow store")
    look = commands.add_parser("predict", help="classify pictures with an exported model")
    look.add_argument("model", type=Path, help="what export wrote")
    look.add_argument("images", nargs="+", help="picture files, folders of them, or patterns")
    bring = commands.add_parser("sync", help="bring an MLflow store up to date from records")
    bring.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="results/<study>/<benchmark>, or results"
    )
    bring.add_argument("--tracking-uri", metavar="URI", help="MLflow store (default: SQLite in the results folder)")
    _add_archives(commands)
    train = commands.add_parser("pretrain", help="remake an embedded backbone")
    train.add_argument("backbone", choices=["tiny"])
    train.add_argument("--out", type=Path, default=Path(__file__).parent / "assets", help="folder to write to")
    train.add_argument("--steps", type=int, default=None, help="optimizer steps (default: the recipe's)")
    return parser


def _add_comparisons(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    apart = commands.add_parser("compare", help="tell two rows, or the rows of two launches, apart")
    apart.add_argument("first", help="FOLDER:ROW, or a launch folder, or its records")
    apart.add_argument("second", help="the same; or ROW alone, of the first folder")
    apart.add_argument(
        "--quantity", action="append", help="target, source, forgetting or mean, can be given again (default: all)"
    )
    audited = commands.add_parser("audit", help="take the numbers of the paper's protocol apart, choice by choice")
    audited.add_argument(
        "launches",
        type=Path,
        nargs="+",
        metavar="LAUNCH",
        help="launch folders of --study paper_audit and of --study paper, or files that pack wrote, in any order",
    )
    audited.add_argument("--out", type=Path, metavar="FILE", help="page to write (default: it is printed)")


def _add_archives(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    into = commands.add_parser("pack", help="write a launch into one file, to be published or kept")
    into.add_argument("folder", type=Path, help="results/<study>/<benchmark>")
    into.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: <study>-<benchmark>.tar.gz)")
    into.add_argument(
        "--checkpoints", action="store_true", help="with the trained tensors, so that they can be measured"
    )
    back = commands.add_parser("unpack", help="unpack what pack wrote, and check all of it")
    back.add_argument("file", type=Path, help="what pack wrote")
    back.add_argument("--out", type=Path, metavar="FOLDER", help="new folder (default: named after the file)")
    back.add_argument("--evaluate", action="store_true", help="measure the trained tensors again, too")


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("record", help="results/<study>/<benchmark>/records/<trial>.json, or the id of an MLflow run")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store (default: SQLite in ./results)")


def main(argv: Sequence[str] | None = None, *, run: str = AS_MODULE) -> int:
    """Carry out a command line.

    Args:
        argv: command and options; those of the process if None.
        run: what was typed before them.

    Returns:
        The exit code: 0 done, 1 what was checked deviates from its record, 2 bad input; of ``launch`` its own.
    """
    words = sys.argv[1:] if argv is None else argv
    if _launches(words):
        from bench.launching import cli

        return cli.main(words[1:], run=f"{run} launch")
    from bench.launching import screen

    screen.tolerate()
    args = arguments(run).parse_args(words)
    try:
        if args.command == "list":
            return _list()
        if args.command == "leaderboard":
            return _leaderboard(args.folders, args.forgetting_limit, args.page)
        if args.command == "compare":
            return _compare(args.first, args.second, args.quantity)
        if args.command == "audit":
            return _audit(args.launches, args.out)
        if args.command == "evaluate":
            return _evaluate(_record(args), args.device)
        if args.command == "export":
            return _export(args)
        if args.command == "predict":
            return _predict(args.model, args.images)
        if args.command == "sync":
            return _sync(args.folders, args.tracking_uri)
        if args.command == "pack":
            return _pack(args.folder, args.out, args.checkpoints)
        if args.command == "unpack":
            return _unpack(args.file, args.out, args.evaluate)
        return _pretrain(args.out, args.steps)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        from bench.spec import sentence

        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2


def _launches(words: Sequence[str]) -> bool:
    """Whether a study is to be run, which has a command line of its own."""
    return list(words[:1]) == ["launch"]


def entry(run: str = INSTALLED) -> NoReturn:
    """Carry out the process's command line, and end the process with its exit code."""
    from bench.launching import cli
    from bench.launching.command import exit_code, leave

    interrupted = cli.INTERRUPTED if _launches(sys.argv[1:]) else "interrupted"
    leave(exit_code(functools.partial(main, run=run), interrupted=interrupted))


def _say(text: str, *, stream: TextIO | None = None) -> None:
    """Print lines, in which names from data cannot steer the terminal."""
    from bench.spec import printable

    print(printable(text, keep="\n"), file=stream)


def _list() -> int:
    from bench.launching import screen
    from bench.launching.listing import listing

    screen.show(listing())
    return 0


def _leaderboard(folders: Sequence[Path], limit: float | None, over: Path | None) -> int:
    from bench.folder import LaunchFolder, launches_in
    from bench.reporting import leaderboard, page
    from bench.reporting.screen import console

    if limit is not None and not 0 <= limit <= 100:
        raise ValueError(f"--forgetting-limit {limit} is no number of points: say one from 0 to 100")
    found = [place for folder in folders for place in launches_in(folder) or [LaunchFolder(folder)]]
    places = list({place.path.resolve(): place for place in found}.values())
    launches = [page.read(place, forgetting_limit=limit) for place in places]
    file = page.place_of(places, over)
    for one in launches:
        leaderboard.write(one.board, one.folder, one.records)
        leaderboard.show(one.board, console())
        _say(f"written to {one.folder.path}; for the browser: {one.folder.page}")
        leaderboard.show_answers(one.board, console())
    if file is not None:
        page.write_over(launches, file)
        _say(f"one page over {len(launches)} launches: {file}")
    return 0


def _compare(first: str, second: str, quantities: Sequence[str] | None) -> int:
    from bench.reporting import compare
    from bench.reporting.screen import console

    found = compare.compare(first, second, quantities) if quantities else compare.compare(first, second)
    compare.show(found, console())
    return 0


def _audit(launches: Sequence[Path], out: Path | None) -> int:
    from bench.reporting import audit, audit_page
    from bench.reporting.archive import records_of

    places = list({place.resolve(): place for place in launches}.values())
    found = audit.audit([record for place in places for record in records_of(place)])
    words = ["audit", *map(str, places), *(["--out", str(out)] if out else [])]
    text = audit_page.page(found, shlex.join([*AS_MODULE.split(), *words]))
    if out is None:
        _say(text)
        return 0
    from bench.records import write_atomically

    write_atomically(out, text)
    _say(f"written to {out}")
    return 0


def _store(args: argparse.Namespace) -> str:
    from bench.reporting.mlflow_store import default_uri

    return args.tracking_uri or default_uri(RESULTS)


def _record(args: argparse.Namespace) -> Path:
    """The file of the record that is meant; that of an MLflow run is fetched into ``results/runs`` first."""
    path = Path(args.record)
    if path.exists() or not RUN_ID.fullmatch(args.record):
        return path
    from bench.folder import LaunchFolder
    from bench.reporting.mlflow_models import fetch

    return fetch(_store(args), args.record, LaunchFolder(RESULTS / "runs" / args.record))


def _pack(folder: Path, out: Path | None, checkpoints: bool) -> int:
    from bench.folder import LaunchFolder
    from bench.reporting import archive

    packed = archive.pack(LaunchFolder(folder), out, checkpoints=checkpoints)
    for remark in packed.said:
        _say(f"note: {remark}")
    _say(f"written to {packed.file} ({packed.file.stat().st_size:,} bytes, SHA-256 {packed.digest})")
    return 0


def _unpack(file: Path, out: Path | None, evaluate: bool) -> int:
    from bench.folder import LaunchFolder
    from bench.reporting import archive

    unpacked = archive.unpack(file, out)
    folder = LaunchFolder(unpacked.folder)
    records = folder.read_records()
    _say(f"{file}: SHA-256 {unpacked.digest}")
    _say(f"unpacked to {folder.path}: {len(records)} records, and every file as its SHA-256 says")
    for remark in unpacked.said:
        _say(f"note: {remark}")
    for fault in unpacked.faults:
        _say(f"error: {fault}", stream=sys.stderr)
    if not unpacked.faults:
        _say("leaderboard: rebuilt from the records, the same byte for byte")
    code = int(bool(unpacked.faults))
    return max(code, _evaluate_all(folder, records, file)) if evaluate else code


def _evaluate_all(folder: LaunchFolder, records: Sequence[Record], file: Path) -> int:
    """Measure all trained models of an archive again; one that it does not hold is an error."""
    from bench.reporting.archive_checks import not_kept

    held = [folder.record(record.trial) for record in records if folder.checkpoint(record.trial).is_file()]
    if not held:
        raise ValueError(f"{file} holds no trained tensors to measure again: it was packed without --checkpoints")
    codes = []
    for path in held:
        _say(f"\n{path.stem}")
        codes.append(_evaluate(path, None))
    if missing := not_kept(folder, records):
        _say(f"error: {file} holds no trained tensors of {', '.join(missing)}", stream=sys.stderr)
    return max(*codes, int(bool(missing)))


def _evaluate(record: Path, device: str | None) -> int:
    import torch

    from bench import checkpoints
    from bench.folder import LaunchFolder

    torch.set_num_threads(1)  # as the workers compute: sums in another order may differ in their last digit
    again = checkpoints.evaluate(record, device)
    folder = LaunchFolder.holding(record).evaluation / record.stem
    checkpoints.write_evaluation(again, folder)
    width = max(map(len, again.pairs))
    _say(f"{'':<{width}}{'now':>9}{'record':>9}")
    for name, (now, recorded) in again.pairs.items():
        _say(f"{name:<{width}}{now:>9.3f}{recorded:>9.3f}")
    _say(f"largest deviation from the record: {again.deviation:g} points, measured on {again.device.type}")
    _say(f"accuracy by class and confusion matrix: {folder}")
    if again.deviation == 0:
        return 0
    if not again.comparable:
        _say("(the record was made on another kind of device, where sums may round differently)")
        return 0
    _say(f"error: {record} says something else, on the same kind of device: see above", stream=sys.stderr)
    return 1


def _export(args: argparse.Namespace) -> int:
    if args.out is None and args.mlflow_model is None:
        raise ValueError("say where to with --out FILE, with --mlflow-model NAME, or with both")
    from bench import checkpoints

    if args.out is not None:
        checkpoints.check_out(args.out)
    path = _record(args)
    merged = checkpoints.merge(path)
    if args.out is not None:
        lines = checkpoints.export(merged, args.out)
        _say(f"written to {args.out}; load it with timm alone:\n")
        _say("\n".join(lines))
    if args.mlflow_model is not None:
        names, lines = _register(merged, path, args)
        called = ", ".join(f"@{name}" for name in names)
        _say(f"registered in MLflow as {args.mlflow_model} ({called}); load it with MLflow and torch alone:\n")
        _say("\n".join(lines))
    return 0


def _register(merged: checkpoints.Merged, path: Path, args: argparse.Namespace) -> tuple[Sequence[str], Sequence[str]]:
    """The aliases of what was registered, and the lines that load it."""
    from bench.folder import LaunchFolder
    from bench.reporting.mlflow_models import Registration, aliases, is_best_in_folder, is_best_run, register

    store, record = _store(args), merged.record
    fetched = path != Path(args.record)
    best = is_best_run(store, args.record) if fetched else is_best_in_folder(LaunchFolder.holding(path), record.trial)
    wanted = Registration(
        model=merged.model,
        example=merged.example.numpy(),
        classes=merged.target.num_classes,
        facts=merged.facts,
        requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in ("torch", "numpy")],
        aliases=aliases(record, best=best),
    )
    lines = register(store, args.mlflow_model, wanted, experiment=record.study, run_name=f"export of {record.trial}")
    return wanted.aliases, lines


def _sync(folders: Sequence[Path], uri: str | None) -> int:
    from bench.reporting import mlflow_store, mlflow_sync

    places = [place for folder in folders for place in mlflow_sync.launch_folders(folder)]
    stores = [uri or mlflow_sync.store_of(place) for place in places]
    for store in dict.fromkeys(stores):
        mlflow_store.check(store, timeout=30.0)  # it may just have been started
    for place, store in zip(places, stores, strict=True):
        done = mlflow_sync.sync(place, store)
        what = f"{done.brought} of {done.trials} trials were brought" if done.changed else "nothing was missing"
        _say(f"{place.path}: {what} ({mlflow_store.without_password(store)})")
    return 0


def _predict(model: Path, images: Sequence[str]) -> int:
    from bench import checkpoints, data
    from bench.spec import printable

    for prediction in checkpoints.predict(model, images):
        ranked = zip(prediction.classes, prediction.percent, strict=True)
        said = f"{prediction.image}: {', '.join(f'{name} {percent:.1f} %' for name, percent in ranked)}"
        _say(printable(said))  # a picture is a line, whatever its classes are called
    if left_out := checkpoints.pictures(images).left_out:
        print(f"left out: {printable(data.describe(left_out))}", file=sys.stderr)
    return 0


def _pretrain(out: Path, steps: int | None) -> int:
    from rich.progress import track

    from bench.pretrain import Recipe, pretrain_tiny

    recipe = Recipe() if steps is None else Recipe(steps=steps)
    facts = pretrain_tiny(out=out, recipe=recipe, track=track(range(recipe.steps), description="pre-training"))
    _say(f"k-NN accuracy on the source: {facts['knn']}")
    _say(f"written to {out}")
    return 0


if __name__ == "__main__":
    entry(AS_MODULE)
