"""Text that comes from outside: names that may be parts of paths, and nothing that steers a terminal."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.records import Record
from bench.reporting import leaderboard
from bench.reporting.progress import StudyProgress
from bench.reporting.rows import build
from bench.spec import SpecError, check_name, printable, read_text, sentence

Make = Callable[..., Record]

TEXTS = (
    "[/__w/pytorch/gloo/pair.cc:545] Connection reset",
    "KeyError: '[/b]'",
    "shape [red] lost",
    "a :smile: and a \\[bold]",
    "[link=http://x]click",
)


@pytest.mark.parametrize("name", ["folder-birds", "Meine Vögel", "鳥", "a.b", "x" * 200, "..a", "50 %", "[b]"])
def test_what_may_be_a_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        " ",
        "../x",
        "/etc/x",
        "a/b",
        "a\\b",
        "a\nb",
        "a\0",
        "\x1b[2J",
        "a\x9bm",
        "x\u202ey",
        "x" * 201,
        "ü" * 101,
    ],
)
def test_what_may_not(name: str) -> None:
    with pytest.raises(SpecError, match=r"^the name ") as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_controls_are_spelt_out_and_all_else_stays() -> None:
    assert printable("\x1b[31mred\x07\r\n\x9b") == "\\x1b[31mred\\x07\\r\\n\\x9b"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert printable("caf\udce9 \u202egnp") == "caf\\xe9 \\u202egnp"
    for text in ("±★ 鳥 e\u0301", "a\u00a0b", "👩\u200d🔬"):
        assert printable(text) == text


def test_an_error_is_one_line_of_a_bounded_length() -> None:
    assert sentence(ValueError("a\nb\x1b")) == "a\\nb\\x1b"
    assert sentence(OSError(errno.ENOSPC, "No space left on device", "/x/y")) == "/x/y: No space left on device"
    assert sentence(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(sentence(ValueError("x" * 10**6))) < 2100


def test_only_a_regular_file_of_a_bounded_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("äöü")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert read_text(tmp_path / "text", most=6) == "äöü"
    for name, most, said in (
        ("text", 5, "larger than 5 bytes"),
        ("latin", 9, "no text in UTF-8"),
        ("link", 9, "missing"),
        ("pipe", 9, "no regular file"),
        (".", 9, "a folder"),
        ("x" * 300, 9, "cannot be read"),
    ):
        with pytest.raises(ValueError, match=said):
            read_text(tmp_path / name, most=most)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_an_error_text_is_shown_as_it_is(record: Make, failed: Make, text: str, terminal: bool) -> None:
    out = io.StringIO()
    with StudyProgress(Console(file=out, width=300, force_terminal=terminal, color_system=None), total=2) as progress:
        progress.finished(failed(record(), f"RuntimeError: {text}\nmore"))
        progress.said(f"{text}: no search trial succeeded", "red")
    assert f"failed: RuntimeError: {text}  ETA" in out.getvalue()
    assert f"{text}: no search trial" in out.getvalue()


def test_an_error_text_does_not_steer_the_terminal(record: Make, failed: Make) -> None:
    out = io.StringIO()
    with StudyProgress(Console(file=out, width=300), total=2) as progress:
        progress.finished(failed(record(), "\nRuntimeError: \x1b]0;title\x07 \x1b[2J"))
    assert "RuntimeError: \\x1b]0;title\\x07 \\x1b[2J" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_table_shows_names_as_they_are(record: Make) -> None:
    strange = {"method": "[/red]", "row": {"[b]": "\x1b[1m"}, "study": "[b] $a_b$ :smile:", "benchmark": "[dim]"}
    board = build([record(**strange)])
    out = io.StringIO()
    leaderboard.show(board, Console(file=out, width=200))
    assert "[/red] [b]=\\x1b[1m" in out.getvalue()
    assert "[b] $a_b$ :smile: on [dim], 1 seed" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_picture_shows_names_as_they_are(tmp_path: Path, record: Make) -> None:
    board = build([record(method="$_$", row={"a": "$\\frac$"}, study="$x^$")])
    leaderboard.draw(board, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 0
