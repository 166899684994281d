"""What a launch prints: narrow screens, no colours, the answer alone, events for programs, and how it has ended."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from rich.cells import cell_len

import launch
from bench import __main__
from bench.cluster.runtime import RayLost
from bench.launching import cli, preflight, study
from bench.launching.request import Request
from bench.readings import Point
from bench.records import Record
from bench.reporting import events, leaderboard
from bench.reporting.answers import answers
from bench.reporting.listener import ListenerError
from bench.reporting.output import Output, output
from bench.reporting.rows import Leaderboard, build
from bench.reporting.screen import console, wrapped
from bench.spec import LaunchOptions, Objective, SearchContext, SpecError, Trial

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7])(?:;[0-9]+)*m")
KINDS = {kind.model_fields["event"].default: kind for kind in events.EVENTS}


class Terminal(io.StringIO):
    """A terminal that keeps what it was sent."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def trial() -> Trial:
    from bench.launching import benchmarks, studies
    from bench.spec import make_trial

    (one,) = studies.load("lora").studies
    values = {"rank": 4, "lr": 0.1}
    benchmark = benchmarks.get("tiny")
    return make_trial(one, benchmark, values, launch="lora", label="search-00", seed=0, phase="search")


@pytest.fixture
def show(
    trial: Trial, paper_records: Callable[..., list[Record]], failed: Callable[..., Record], tmp_path: Path
) -> Callable[..., str]:
    """What a launch sends to a screen: trials of which one fails, a table, a warning, the answer."""

    def run(file: io.StringIO, records: Sequence[Record] = (), **options: bool) -> str:
        told, found = output(LaunchOptions(**options), file), list(records) or paper_records()
        told.say(f"Log of Ray, Optuna and MLflow: {tmp_path}/logs/20260101-000000.log")
        with told.progress(len(found)) as progress:
            progress.started(trial)
            progress.reported(trial, Point(step=3, steps=150, values={"train_loss": 1.5}))
            progress.slots(0, 2)
            progress.slots(0, 2)
            for record in found[:-1]:
                progress.finished(record)
            progress.finished(failed(found[-1]))
        conclude(told, build(found), tmp_path)
        return file.getvalue()

    return run


def conclude(told: Output, board: Leaderboard, folder: Path) -> None:
    told.ranked(board, folder)
    told.say("lora rank=8: lr = 0.3 is at the end of its range", level="warning")
    told.answer(board, folder)
    told.ended(events.Ended(status="done", exit_code=0, text=""))


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_everything_fits_into_the_screen_and_nothing_is_cut(
    width: int, show: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = [line.rstrip() for line in re.split(r"[\n\r]", ESCAPE.sub("", show(Terminal())))]
    wide = [line for line in lines if cell_len(line) > width and str(tmp_path) not in line]
    assert wide == []
    live = [line for line in lines if re.match(r"trials |  lora-search", line)]
    assert live
    assert all(re.search(r"\d+/(30|150) ", line) for line in live)  # names and notes may be cut, counts are not
    lasting = [line for line in lines if line not in live]
    assert [line for line in lasting if "…" in line] == []
    text = " ".join(" ".join(lasting).split())
    assert "[29/30] block_expansion-confirm-p4-seed1 p=4 lr=0.12 test target 93.80 source 89.40 mean 91.60" in text
    assert "full" in text
    assert "[93.2,97.1]" in text  # the interval of its target accuracy
    assert any(line.endswith(f"{tmp_path}/logs/20260101-000000.log") for line in lines)  # a path is never broken


@pytest.mark.parametrize("width", [34, 60, 80])
def test_two_trials_that_run_are_told_apart_however_narrow_the_screen_is(
    width: int, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    terminal, long = Terminal(), "block_expansion-repeat1-confirm-p4-seed"
    with output(LaunchOptions(), terminal).progress(2) as progress:
        for number in (10, 11):
            progress.started(trial.model_copy(update={"id": f"{long}{number}"}))
    lines = re.split(r"[\n\r]", ESCAPE.sub("", terminal.getvalue()))
    assert all(any(f"seed{number} " in line for line in lines) for number in (10, 11))
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("file", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_what_libraries_print_meanwhile_stays_off_the_screen(
    file: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    with output(LaunchOptions(), file).progress(3) as progress:
        print("Configuration for experiment")
        print("Configuration for experiment", file=sys.stderr)
        progress.said("a sentence of the launch")
    assert "a sentence of the launch" in file.getvalue()
    assert "Configuration" not in file.getvalue()
    assert capsys.readouterr() == ("Configuration for experiment\n", "Configuration for experiment\n")


def test_a_file_gets_a_line_a_trial(show: Callable[..., str]) -> None:
    text = show(io.StringIO())
    assert "\x1b" not in text
    assert re.search(r"^\[ 1/30\] full-confirm-seed0 .* test target 95\.20 .* ETA 0:00:0\d$", text, re.MULTILINE)


def test_colours_are_there_unless_they_are_not_wanted(
    show: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COLOUR.search(show(Terminal()))
    monkeypatch.setenv("NO_COLOR", "1")
    text = show(Terminal())
    assert not COLOUR.search(text)
    assert "\x1b[1m" in text  # bold says something


def test_a_terminal_without_commands_gets_none(show: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for term in ("dumb", "unknown"):
        monkeypatch.setenv("TERM", term)
        text = show(Terminal())
        assert "\x1b" not in text
        assert "[29/30] block_expansion-confirm-p4-seed1" in text


@pytest.mark.parametrize(("columns", "expected"), [(40, 40), (132, 132), (0, 80)])
def test_a_terminal_without_commands_is_as_wide_as_it_is(
    columns: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says no width has 80 columns."""
    monkeypatch.setenv("TERM", "dumb")
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (24, columns))
    with os.fdopen(its, "w") as terminal:
        assert console(terminal).width == expected
        monkeypatch.setenv("COLUMNS", "50")
        assert console(terminal).width == 50
    os.close(ours)
    monkeypatch.delenv("COLUMNS")
    assert console(Terminal()).width == 80


def test_quiet_says_the_answer_and_what_has_gone_wrong(
    show: Callable[..., str], paper_records: Callable[..., list[Record]]
) -> None:
    lines = show(io.StringIO(), quiet=True).splitlines()
    assert lines[0] == "waiting for nodes: 0 of 2 slots"
    assert lines[1].startswith("block_expansion-confirm-p4-seed2: failed: FloatingPointError: the loss is NaN")
    assert lines[2] == "lora rank=8: lr = 0.3 is at the end of its range"
    assert lines[3] == "Which row to take:"
    said = " ".join(" ".join(lines[4:]).split())
    assert said == " ".join(f"* {answer.text}" for answer in answers(build(paper_records())))


def test_the_last_lines_are_the_answer(show: Callable[..., str], paper_records: Callable[..., list[Record]]) -> None:
    _, last = show(io.StringIO()).split("Which row to take:\n")
    said = " ".join(last.split())
    assert said == " ".join(f"* {answer.text}" for answer in answers(build(paper_records())))


def test_events_are_one_object_a_line_as_their_schema_says(
    show: Callable[..., str], trial: Trial, paper_records: Callable[..., list[Record]]
) -> None:
    found = [json.loads(line) for line in show(io.StringIO(), json_lines=True).splitlines()]
    parsed = [KINDS[one["event"]].model_validate_json(json.dumps(one)) for one in found]
    kinds = [one.event for one in parsed]
    assert kinds == ["said", "trial_started", "said", *["trial_finished"] * 30, "leaderboard", "said", "ended"]
    assert (found[1]["trial"], found[1]["hyperparameters"]) == (trial.id, {"rank": 4, "lr": 0.1})
    assert found[3]["scores"]["target_accuracy"] == 95.2
    assert (found[32]["status"], found[32]["done"], found[32]["total"]) == ("failed", 30, 30)
    assert found[33]["board"]["rows"][0]["target_accuracy"]["mean"] == pytest.approx(95.5)
    assert found[33]["board"] == json.loads(leaderboard.as_json(build(paper_records())))
    assert [answer["wish"] for answer in found[33]["answers"]] == WISHES
    assert (found[34]["level"], found[35]["exit_code"]) == ("warning", 0)


WISHES = ["target_accuracy", "forgetting_limit", "mean", "source_accuracy"]
ROWS = {"full": (0.96, 0.6), "lora": (0.93, 0.85), "linear": (0.85, None)}


def test_answers_name_the_row_for_each_wish_and_how_certain_it_is(launch_of: Callable[..., list[Record]]) -> None:
    target, limit, mean, source = answers(build(launch_of(ROWS)))
    assert [answer.wish for answer in (target, limit, mean, source)] == WISHES
    assert [answer.row for answer in (target, limit, mean, source)] == ["full", "lora", "lora", "linear"]
    assert [answer.certain for answer in (target, limit, mean, source)] == [True, False, False, True]
    assert re.fullmatch(
        r"For the target alone take full: 93\.8 \[.*\] % there, 34\.2 \[.*\] points forgotten; it is told from every "
        r"other row \(95 %\)\.",
        target.text,
    )
    assert "so that it may forget more" in limit.text
    assert "it cannot be told from linear (95 %)" in mean.text
    (*_, strict) = [answer for answer in answers(build(launch_of(ROWS), forgetting_limit=20)) if answer.row == "lora"]
    assert "may forget more" not in strict.text
    assert answers(build(launch_of(ROWS), forgetting_limit=20))[1].certain
    alone = answers(build(launch_of(ROWS, seeds=(0,))))[-1]
    assert alone.text.endswith("it is told from every other row (95 %; over images alone, other seeds are left out).")
    assert not alone.certain


def test_of_equal_rows_no_dominated_one_is_recommended(launch_of: Callable[..., list[Record]]) -> None:
    """Probes keep the source alike: the one that learns more is the answer, wherever it stands in the table."""
    for probes in ({"a": (0.6, None), "b": (0.8, None)}, {"a": (0.8, None), "b": (0.6, None)}):
        rows = {"full": (0.95, 0.55), **probes}
        more = max(probes, key=lambda name: probes[name])
        board = build(launch_of(rows))
        named = {answer.wish: answer.row for answer in answers(board)}
        assert named == {"target_accuracy": "full", "forgetting_limit": more, "mean": more, "source_accuracy": more}
        told = {row.label: row.standing.groups for row in board.rows if row.standing}
        assert [label for label, groups in told.items() if "source_accuracy" in groups] == ["a", "b"]


@pytest.mark.parametrize("other", [0.7, 0.9])
def test_of_rows_that_learn_alike_the_one_that_keeps_more_is_recommended(
    answered: Callable[..., Record], other: float
) -> None:
    images, before = np.arange(400), np.arange(400) < 380
    records = [
        answered(images < 360, images < 400 * source, before, trial=f"{name}-{seed}", method=name, seed=seed)
        for name, source in (("a", 0.8), ("b", other))
        for seed in (0, 1)
    ]
    target, limit, *_ = answers(build(records, forgetting_limit=50))
    assert target.row == limit.row == ("b" if other > 0.8 else "a")


def test_where_no_row_keeps_to_the_limit_none_is_named(launch_of: Callable[..., list[Record]]) -> None:
    (_, limit, *_) = answers(build(launch_of({"full": (0.96, 0.6)})))
    assert (limit.row, limit.certain) == (None, False)
    assert limit.text == "To forget at most 10 points there is no row to take."


BEFORE = 95.0
"""Of the untouched backbone, in the launches that are made here."""

UNDER = {"maximise": "target_accuracy", "subject_to": {"forgetting": {"max": 2}}}


@pytest.mark.parametrize(
    ("objectives", "limit"),
    [
        ([UNDER, UNDER], 2),
        ([{**UNDER, "subject_to": {"mean": {"min": 50}, "forgetting": {"min": -3, "max": 0.125}}}], 0.125),
        ([{**UNDER, "subject_to": {"source_accuracy": {"min": 80.5}}}], BEFORE - 80.5),
        (["mean"], 10),
        ([["target_accuracy", "forgetting"]], 10),
        ([{"maximise": "source_accuracy", "subject_to": {"target_accuracy": {"min": 60}}}], 10),
        ([UNDER, "mean"], 10),  # the rows were chosen under different limits
        ([None], 10),
    ],
)
def test_the_limit_is_the_studys_own(
    launch_of: Callable[..., list[Record]], objectives: list[Any], limit: float
) -> None:
    names = ["linear", "lora"][: len(objectives)]
    records = []
    for name, asked in zip(names, objectives, strict=True):
        said = "" if asked is None else str(Objective.model_validate(asked))
        context = SearchContext(objective=said, trials=12, lag=8, seed=0) if asked is not None else None
        records += launch_of({name: (0.85, None)}, search=context)
    board = build(records)
    assert board.source_accuracy_before == pytest.approx(BEFORE)
    assert board.forgetting_limit == pytest.approx(limit)
    (_, answer, *_) = answers(board)
    assert answer.text.startswith(f"To forget at most {limit:g} points take ")
    assert build(records, forgetting_limit=5).forgetting_limit == 5


def test_one_row_is_compared_with_none(launch_of: Callable[..., list[Record]]) -> None:
    for answer in answers(build(launch_of({"linear": (0.85, None)}))):
        assert answer.text.endswith("there is no other row to compare it with.")
        assert not answer.certain


def test_a_board_without_success_has_no_answer(
    launch_of: Callable[..., list[Record]], failed: Callable[..., Record]
) -> None:
    assert answers(build([failed(record) for record in launch_of(ROWS)])) == []


def test_fewest_parameters_among_equals_are_named(board: Leaderboard) -> None:
    (mean,) = [answer for answer in answers(board) if answer.wish == "mean"]
    assert mean.row == "block_expansion p=4"
    assert mean.text.endswith("from any other row (95 %), and of these linear trains the fewest parameters (650).")


def test_of_equally_small_rows_the_better_one_is_named(launch_of: Callable[..., list[Record]]) -> None:
    rows = {"a": (0.92, 0.92), "b": (0.83, None), "c": (0.86, None)}
    size = {"a": 9000, "b": 650, "c": 650}
    records = [
        record.model_copy(update={"trainable_parameters": size[record.method]})
        for record in launch_of(rows, seeds=(0, 1), n=60)
    ]
    (mean,) = [answer for answer in answers(build(records)) if answer.wish == "mean"]
    assert mean.row == "a"
    assert mean.text.endswith(
        "it cannot be told from any other row (95 %), and of these c trains the fewest parameters (650)."
    )


def test_a_plan_is_an_event_and_a_refusal_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--study", "linear", "--results", str(tmp_path), "--dry-run", "--json", "--num-workers", "1"]
    assert launch.main([*asked, "--slots", "1"]) == 0
    plan, ended = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events.Plan.model_validate_json(json.dumps(plan))
    assert (plan["study"], plan["slots"], plan["studies"][0]["method"]) == ("linear", 1, "linear")
    assert plan["trials"] == plan["studies"][0]["trials"] + plan["studies"][0]["confirmations"]
    assert (ended["event"], ended["status"], ended["exit_code"]) == ("ended", "done", 0)
    with pytest.raises(SystemExit):
        launch.main([*asked, "--set", "trials=0"])
    said = capsys.readouterr()
    assert json.loads(said.out)["status"] == "refused"
    assert said.err == f"error: {json.loads(said.out)['text']}\n"


def test_quiet_and_json_contradict_each_other() -> None:
    with pytest.raises(SpecError, match="--quiet and --json contradict each other: give one of them"):
        Request.parsed(launch.arguments().parse_strictly(["--study", "linear", "--quiet", "--json"]))


ENDS: list[tuple[BaseException, str, int, str]] = [
    (RayLost("Ray's raylet has ended unexpectedly"), "failed", 1, "Ray's raylet has ended unexpectedly"),
    (ListenerError("RuntimeError: the screen broke"), "failed", 1, "the screen broke"),
    (OSError(28, "No space left on device", "/results"), "failed", 1, "/results: No space left on device"),
    (RuntimeError("a fault"), "failed", 1, "RuntimeError: a fault"),
    (KeyboardInterrupt(), "interrupted", 128 + signal.SIGTERM, ""),
]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run a launch that ends as something raises, without Ray."""

    def run(error: BaseException, folder: Path, *more: str) -> None:
        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(study, "_run", fail)
        monkeypatch.setattr(study, "stop_ray", lambda: None)
        monkeypatch.setattr(study, "received", lambda: signal.SIGTERM)
        asked = ["--study", "linear", "--results", str(folder), *more]
        prepared = preflight.prepare(Request.parsed(launch.arguments().parse_strictly(asked)))
        if isinstance(error, KeyboardInterrupt | RuntimeError) and type(error) is not RayLost:
            with pytest.raises(type(error)):
                study.run(prepared)
        else:
            assert study.run(prepared) == 1

    yield run


@pytest.mark.parametrize(("error", "status", "code", "said"), ENDS, ids=[type(one[0]).__name__ for one in ENDS])
def test_every_end_has_a_sentence_and_an_event(
    error: BaseException,
    status: str,
    code: int,
    said: str,
    runs: Callable[..., None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    runs(error, tmp_path, "--json")
    ended = events.Ended.model_validate_json(capfd.readouterr().out.splitlines()[-1])
    assert (ended.status, ended.exit_code) == (status, code)
    assert said in ended.text
    assert "and the same command goes on from them" in ended.text
    runs(error, tmp_path, "--quiet")
    shown = capfd.readouterr().out
    assert shown == ("" if status == "interrupted" else f"error: {ended.text}\n")  # a signal's is said on stderr


@pytest.mark.parametrize("words", [["--foo"], ["--trials", "x"], ["--study", "nope"], ["--quiet"]], ids="-".join)
def test_what_is_refused_is_an_event(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        launch.main([*words, "--json"])
    said = capsys.readouterr()
    ended = events.Ended.model_validate_json(said.out)
    assert (ended.status, ended.exit_code) == ("refused", 2)
    assert said.err == f"error: {ended.text}\n"


def test_a_signal_before_anything_is_started_is_an_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(preflight, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch.main(["--dry-run", "--json"])
    ended = events.Ended.model_validate_json(capsys.readouterr().out)
    assert (ended.status, ended.exit_code, ended.text) == (
        "interrupted",
        130,
        "interrupted before anything was started",
    )


def test_what_libraries_print_is_no_event(
    runs: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.data.fetch", lambda name: print(f"downloading {name} ..."))
    runs(RayLost("Ray's raylet has ended unexpectedly"), tmp_path, "--json")
    said = capfd.readouterr()
    assert [KINDS[json.loads(line)["event"]] for line in said.out.splitlines()][-1] is events.Ended
    assert "downloading digits ..." in said.err


def test_a_killed_launch_leaves_an_event_too(tmp_path: Path) -> None:
    asked = ["--study", "linear", "--results", str(tmp_path)]
    prepared = preflight.prepare(Request.parsed(launch.arguments().parse_strictly([*asked, "--json"])))
    sentence = study.farewell(prepared, output(prepared.options, io.StringIO())).sentence
    assert events.Ended.model_validate_json(sentence).status == "killed"
    prepared = preflight.prepare(Request.parsed(launch.arguments().parse_strictly(asked)))
    sentence = study.farewell(prepared, output(prepared.options, io.StringIO())).sentence
    assert sentence.startswith("error: the process of the launch has been ended: ")


@pytest.mark.parametrize("run", ["python launch.py", "vit-forgetting-bench launch"])
def test_help_fits_eighty_columns(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = [cli.arguments(run).format_help(), __main__.arguments(run.removesuffix(" launch")).format_help()]
    assert [line for text in texts for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("width", [40, 80])
def test_a_list_is_broken_between_words(width: int) -> None:
    text = f"    {'rank':<16} {'a word ' * 20}\n\n/{'x' * 100}/path\nshort"
    lines = wrapped(text, width).splitlines()
    assert all(len(line) <= width for line in lines if "/path" not in line)
    assert lines[0].startswith("    rank             a word")
    assert re.match(r" {8}(a|word) ", lines[1])
    assert lines[-3:] == ["", f"/{'x' * 100}/path", "short"]
