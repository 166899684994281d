"""The page as a file: its numbers are those of the tidy rows, no text of others becomes markup, and it stays small."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import __main__
from bench.folder import LaunchFolder
from bench.readings import Answers, packed_classes
from bench.records import Record
from bench.reporting import page
from bench.reporting.evidence import gather
from bench.reporting.rows import Leaderboard, build, lines

Make = Callable[..., Record]
MakeAll = Callable[..., list[Record]]

MB = 1_000_000


class Elements(HTMLParser):
    """Elements of a page with their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


def held(text: str) -> list[dict[str, Any]]:
    """The launches that a page holds."""
    launches: list[dict[str, Any]] = json.loads(Elements(text).scripts[0])["launches"]
    return launches


def shown(records: list[Record], board: Leaderboard | None = None) -> str:
    built = board or build(records)
    return page.render([page.launch(built, gather(built, records))])


def test_the_numbers_are_the_tidy_rows(mixed: Leaderboard) -> None:
    (own,) = held(shown([], mixed))
    assert own["rows"] == lines(mixed)
    assert own["findings"]
    assert own["title"] == "paper on tiny"


def test_the_page_asks_for_nothing_and_runs_nothing_else(paper_records: MakeAll) -> None:
    text = shown(paper_records())
    elements = Elements(text)
    for tag, attributes in elements.found:
        assert not {"src", "srcset", "action", "style", "onclick", "onload"} & set(attributes), tag
        assert attributes.get("href") in (None, "data:,", "#main", "leaderboard.md")
    assert [tag for tag, _ in elements.found].count("script") == 2
    policy = next(a["content"] or "" for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_every_part_of_the_page_is_used_and_packed() -> None:
    parts = {path.name for path in page.ASSETS.iterdir()}
    assert parts == {"page.html", "page.css", *(f"{name}.js" for name in page.SCRIPTS)}
    root = page.ASSETS.parents[2]
    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["bench"]
    files = {file for pattern in packed for file in (root / "bench").glob(pattern)}
    assert set(page.ASSETS.iterdir()) <= files


def test_no_text_of_others_becomes_markup(record: Make) -> None:
    evil = "</script><script>alert(1)</script><!--"
    made = record(study="<img src=x>", method=evil, hyperparameters={"lr": evil}, row={"lr": evil})
    text = shown([made])
    assert "<img" not in text
    assert [tag for tag, _ in Elements(text).found].count("script") == 2
    (own,) = held(text)
    assert own["rows"][0]["method"] == evil


def test_without_scripts_nothing_is_named_that_does_not_lie_beside_the_page(paper_records: MakeAll) -> None:
    board = build(paper_records())
    own, far = (page.launch(board, gather(board, []), link=link) for link in ("", "paper/tiny/"))
    texts = [page.render(shown) for shown in ([own], [far], [own, far])]
    assert ['href="leaderboard.md"' in text for text in texts] == [True, False, False]


def test_equal_records_give_equal_pages(paper_records: MakeAll) -> None:
    records = paper_records()
    assert shown(records) == shown(records[::-1])


def large(answered: Make, searched: Make, *, rows: int, classes: int, trials: int) -> list[Record]:
    """A launch of many rows with long curves, on 10,000 test images of which a tenth was taken for something else."""
    rng = np.random.default_rng(0)
    true = rng.integers(classes, size=10_000)
    named = {f"a class with a long name {number}": 1 for number in range(classes)}
    made = []
    for row in range(rows):
        values = {"rank": row, "lr": 0.012345678901 * (row + 1)}
        about = {"method": "lora", "row": {"rank": row}, "hyperparameters": values}
        for seed in range(3):
            given = np.where(rng.random(10_000) < 0.1, rng.integers(classes, size=10_000), true)
            right = given == true
            one = answered(right, right, right, trial=f"lora-confirm-rank{row}-seed{seed}", seed=seed, **about)
            kept = Answers(
                images="digits",
                right=one.readings[1].answers.right,  # type: ignore[union-attr]
                classes=packed_classes(true),
                called=packed_classes(given),
            )
            target = one.readings[1].model_copy(update={"answers": kept})
            before = one.readings[0].answers.model_copy(update={"classes": packed_classes(true)})  # type: ignore[union-attr]
            readings = (one.readings[0].model_copy(update={"answers": before}), target, one.readings[2])
            details = {"images": {"per_class": {"target_test": named}, "source_classes": list(named)}}
            made.append(one.model_copy(update={"readings": readings, "details": details}))
        for trial in range(trials):
            lr = values["lr"] if trial == 0 else float(rng.random())
            found = searched(
                trial=f"lora-search-{row:02}-{trial:03}", **{**about, "hyperparameters": {**values, "lr": lr}}
            )
            on = [r.model_copy(update={"step": step}) for step in range(1, 150) for r in found.readings if r.step]
            made.append(found.model_copy(update={"readings": (*found.readings, *on)}) if trial == 0 else found)
    return made


@pytest.mark.parametrize("classes", [page.MATRIX, 1000])
def test_forty_rows_take_less_than_a_megabyte(answered: Make, searched: Make, classes: int) -> None:
    records = large(answered, searched, rows=40, classes=classes, trials=20)
    text = shown(records)
    assert len(text.encode()) < MB
    (own,) = held(text)
    assert len(own["rows"]) == len(own["classes"]) == len(own["curves"]) == 40
    assert all(found["whole"] is (classes <= page.MATRIX) for found in own["classes"].values())
    assert len(own["source_classes"]) == 40
    assert all(sum(found["n"]) == 30_000 for found in (*own["class_images"], *own["source_queries"]))
    assert (len(own["class_names"]), len(own["class_images"])) == (1, 1)  # what all rows share stands there once
    steps = [point[0] for point in own["curves"]["lora rank=0"]]
    assert (steps[0], steps[-1], len(steps)) == (0, 150, page.POINTS)


def launches(place: Path, paper_records: MakeAll, *names: str) -> list[Path]:
    """Launch folders of a results folder."""
    for name in names:
        folder = LaunchFolder.of(place, name, "tiny")
        for one in paper_records(study=name, methods=["full", "lora"]):
            one.write(folder.records)
        folder.manifest.write_text(json.dumps({"asked": {"study": {}}}))
    return [place / name / "tiny" for name in names]


def test_one_page_over_several_launches(
    tmp_path: Path, paper_records: MakeAll, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lies in the current folder, and takes the place of an earlier one there."""
    folders = launches(tmp_path, paper_records, "first", "second")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert __main__.main(["leaderboard", *map(str, folders), str(folders[0])]) == 0
        assert "one page over 2 launches: leaderboards.html\n" in capsys.readouterr().out
    found = held((tmp_path / "leaderboards.html").read_text())
    assert [(own["title"], own["link"]) for own in found] == [
        ("first on tiny", "first/tiny/"),
        ("second on tiny", "second/tiny/"),
    ]
    for folder, own in zip(folders, found, strict=True):
        assert held((folder / "index.html").read_text())[0]["rows"] == own["rows"]
        for seed in own["seeds"]:
            assert (tmp_path / own["link"] / "records" / f"{seed['trial']}.json").is_file()


def test_a_results_folder_stands_for_its_launches_and_the_page_goes_where_it_is_asked_to(
    tmp_path: Path, paper_records: MakeAll
) -> None:
    launches(tmp_path / "results", paper_records, "first", "second")
    file = tmp_path / "elsewhere" / "all.html"
    file.parent.mkdir()
    assert __main__.main(["leaderboard", str(tmp_path / "results"), "--page", str(file)]) == 0
    assert [own["link"] for own in held(file.read_text())] == ["../results/first/tiny/", "../results/second/tiny/"]
    assert not (tmp_path / "results" / "leaderboards.html").exists()


def test_one_launch_has_its_own_page_alone(tmp_path: Path, paper_records: MakeAll) -> None:
    (folder,) = launches(tmp_path, paper_records, "first")
    assert __main__.main(["leaderboard", str(folder)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["first/tiny", "--page", "first"], "--page first is a folder: name a file, such as first/leaderboards.html"),
        (["first/tiny", "--page", "first/tiny/index.html"], "is a launch's own page: name another file"),
        (["first/tiny", "--page", "no/all.html"], "--page no/all.html: there is no folder "),
        (["first/tiny", "--page", "notes.md"], "notes.md is there, and is no page over launches: name another file"),
        (["first/tiny", "third/tiny"], "leaderboards.html is there, and is no page over launches: name another file"),
        (["first/tiny", "nowhere"], "there are no records in nowhere/records"),
        (["first/tiny", "second/tiny"], "second/tiny: no record is a confirmation"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_written(
    tmp_path: Path,
    paper_records: MakeAll,
    searched: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    launches(tmp_path, paper_records, "first", "third")
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "leaderboards.html").write_text("somebody else's")
    searched().write(LaunchFolder(tmp_path / "second" / "tiny").records)
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["leaderboard", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.rglob("*.html")] == ["somebody else's"]
    assert not (tmp_path / "no").exists()
