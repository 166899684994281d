"""The README's table, sentences and picture are what the committed records of its study give."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reporting import archive

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference" / "tiny" / "paper-tiny.tar.gz"
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder; its tables were made anew from the records, and are the archive's byte for byte."""
    return archive.unpack(REFERENCE, tmp_path_factory.mktemp("reference") / "paper").folder


def starting(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_table_is_that_of_the_records(unpacked: Path) -> None:
    shown = README.split("## ", 1)[0]
    table = starting((unpacked / "leaderboard.md").read_text(encoding="utf-8"), "| ")
    assert len(table) > 10
    assert starting(shown, "| ") == table[: len(starting(shown, "| "))]
    assert len(starting(shown, "| ")) == 2 + 1 + 11  # header, rule, untouched backbone, rows


def test_the_sentences_are_those_of_the_records(unpacked: Path) -> None:
    shown = starting(README.split("## ", 1)[0], "- ")
    said = starting((unpacked / "leaderboard.md").read_text(encoding="utf-8"), "- ")
    assert len(shown) >= 3
    assert [line for line in said if line in shown] == shown


def test_the_picture_is_that_of_the_study(unpacked: Path) -> None:
    assert (ROOT / "docs/images/pareto.png").read_bytes() == (unpacked / "pareto.png").read_bytes()
