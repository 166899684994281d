"""The page in a real browser: it sorts, filters and ranks, by mouse and keyboard; it is quiet, legible and closed."""

from __future__ import annotations

import csv
import html
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting import findings, leaderboard, page
from bench.reporting.evidence import gather
from bench.reporting.rows import QUANTITIES, Line, build, cell, lines, with_interval
from bench.spec import readable
from tests import browser
from tests.browser import Browser
from tests.unit.test_evidence import confirmed, head, kept, way

pytestmark = [
    pytest.mark.skipif(browser.found() is None, reason="no Chromium or Chrome on PATH"),
    pytest.mark.xdist_group("browser"),
]

Make = Callable[..., Record]
MakeAll = Callable[..., list[Record]]
Show = Callable[..., str]
Put = Callable[..., str]

TARGET, FORGOTTEN = 2, 4
"""Columns of the table, after the rank and the row."""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def quiet(window: Browser) -> Iterator[Browser]:
    """A desktop window, in which nothing is complained of and from which nothing is asked."""
    window.said.clear()
    window.requests.clear()
    window.size(1280, 900)
    window.media(prefers_color_scheme="light")
    yield window
    window.run("1")  # what was said until now has arrived
    assert window.said == []
    assert [address for address in window.requests if not address.startswith(("file:", "about:", "data:"))] == []


@pytest.fixture(scope="module")
def board_lines(paper_records: MakeAll) -> list[Line]:
    return lines(build(paper_records()))


def rendered(folder: Path, *launches: list[Record]) -> str:
    """The page of some records' launches."""
    shown = []
    for records in launches:
        board = build(records)
        shown.append(page.launch(board, gather(board, records, LaunchFolder(folder))))
    return page.render(shown)


@pytest.fixture
def put(tmp_path: Path, quiet: Browser) -> Put:
    """Open a page; returns its address."""

    def open_page(text: str, state: str = "") -> str:
        file = tmp_path / "index.html"
        file.write_text(text, encoding="utf-8")
        quiet.open(f"{file.as_uri()}{state}")
        return file.as_uri()

    return open_page


@pytest.fixture
def show(tmp_path: Path, put: Put) -> Show:
    """Open the page of some records' launches; returns its address."""
    return lambda *launches, state="": put(rendered(tmp_path, *launches), state)


@pytest.fixture(scope="module")
def papers_page(tmp_path_factory: pytest.TempPathFactory, paper_records: MakeAll) -> str:
    return rendered(tmp_path_factory.mktemp("launch"), paper_records())


@pytest.fixture
def paper(put: Put, papers_page: str) -> str:
    return put(papers_page)


def table(window: Browser) -> list[list[str]]:
    """The cells of the table's body, as people read them."""
    script = "[...document.querySelectorAll('#board tbody tr')].map(r => [...r.children].map(c => c.innerText))"
    found: list[list[str]] = window.run(script)
    return found


def names(window: Browser) -> list[str]:
    return [cells[1].splitlines()[0] for cells in table(window)]


def first_number(text: str) -> float:
    return float(text.split()[0])


def test_the_table_says_what_the_tidy_rows_say(quiet: Browser, paper: str, board_lines: list[Line]) -> None:
    shown = {cells[1].splitlines()[0]: cells for cells in table(quiet)}
    assert set(shown) == {line["label"] for line in board_lines}
    for line in board_lines:
        cells = shown[line["label"]][TARGET : TARGET + len(QUANTITIES)]
        assert [" ".join(text.split()) for text in cells] == [cell(line, name) for name in QUANTITIES]
    bold = quiet.run("[...document.querySelectorAll('#board td.best')].length")
    assert bold == sum(name in line["groups"].split() for line in board_lines for name in QUANTITIES)


def test_numbers_and_values_are_written_as_python_writes_them(quiet: Browser, paper: str) -> None:
    """Ties too, and what is none in binary."""
    rng = random.Random(0)
    values = [100 * k / n for n in (8, 400, 3) for k in range(0, 100)] + [
        -0.04,
        -0.05,
        -0.25,
        0.05,
        1e-9,
        2.5,
        1e15 + 0.5,
    ]
    values += [rng.uniform(-100, 100) for _ in range(200)]
    made = quiet.run(f"{json.dumps(values)}.map(value => [one(value), fixed(value, 3), count(Math.abs(value))])")
    assert made == [
        [with_interval(v, None, None), f"{v + 0.0:.3f}".replace("-0.000", "0.000"), f"{abs(v):,.0f}"] for v in values
    ]
    chances = [k / 400 for k in range(401)]
    assert quiet.run(f"{json.dumps(chances)}.map(share)") == [f"{chance:.0%}".replace("%", " %") for chance in chances]
    numbers = [value / 1000 for value in values if not (value / 1000).is_integer()] + [1e-5, 2.125, 1234.5, 0.00012345]
    others = [4096, 12345, "a|b_c\\d", 'say "x"', True, None, [0.125, 0.0625, "x"]]
    assert quiet.run(f"{json.dumps(numbers + others)}.map(short)") == [readable(v, 3) for v in (*numbers, *others)]
    named = ["wise alpha=0.25", "wise alpha=0.5", "wise alpha=-1", "wise alpha=1e-05", "b 16", "b 4", "b"]
    by_size = ["b", "b 4", "b 16", "wise alpha=-1", "wise alpha=1e-05", "wise alpha=0.25", "wise alpha=0.5"]
    assert quiet.run(f"{json.dumps(named)}.sort(natural)") == by_size


def test_the_skip_link_moves_the_focus_and_nothing_else(quiet: Browser, put: Put, papers_page: str) -> None:
    put(papers_page, "#theme=dark&limit=2&sort=forgetting")
    quiet.press("Tab")
    assert quiet.run("document.activeElement.className") == "skip"
    quiet.press("Enter")
    assert quiet.run("document.activeElement.id") == "main"
    assert quiet.run("[location.hash, document.documentElement.dataset.theme, state.limit, state.sort]") == [
        "#theme=dark&limit=2&sort=forgetting",
        "dark",
        "2",
        "forgetting",
    ]


def test_a_column_sorts_both_ways_and_the_address_remembers(quiet: Browser, paper: str) -> None:
    quiet.click("#sort-target_accuracy")
    falling = [first_number(cells[TARGET]) for cells in table(quiet)]
    assert falling == sorted(falling, reverse=True)
    assert quiet.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    quiet.press("Enter")  # the head has kept the focus
    rising = [first_number(cells[TARGET]) for cells in table(quiet)]
    assert rising == sorted(rising)
    assert quiet.run("document.activeElement.id") == "sort-target_accuracy"
    address = f"{paper}#sort=target_accuracy"
    quiet.until(f"location.href === {address!r}")
    quiet.open(address)
    assert [first_number(cells[TARGET]) for cells in table(quiet)] == rising


@pytest.mark.parametrize(
    "column", ["label", "source_accuracy", "forgetting", "mean", "pareto", "best", "trainable_parameters"]
)
def test_every_column_sorts(quiet: Browser, paper: str, column: str) -> None:
    before = sorted(names(quiet))
    quiet.click(f"#sort-{column}")
    once = names(quiet)
    quiet.click(f"#sort-{column}")
    assert sorted(once) == before
    assert names(quiet) != once


def test_words_filter_rows_in_table_and_pictures(quiet: Browser, paper: str) -> None:
    quiet.run("document.getElementById('filter').focus()")
    quiet.type("LORA rank=8")
    assert names(quiet) == ["lora rank=8"]
    assert quiet.run("document.querySelectorAll('#trade .point').length") == 1
    assert quiet.run("document.getElementById('board-note').innerText").startswith("1 of 10 rows.")
    quiet.run("document.getElementById('filter').select()")
    quiet.type("nothing of the kind")
    assert names(quiet) == []
    assert "No row to draw" in quiet.run("document.getElementById('trade').innerText")


def test_a_value_in_the_filter_is_the_whole_value(quiet: Browser, paper: str) -> None:
    def found(words: str) -> list[str]:
        quiet.run(f"setState({{q: {words!r}, sort: 'label'}})")
        return names(quiet)

    assert found("lora rank=1") == []
    assert found("rank=8,lora") == found("rank=8, LORA") == ["lora rank=8"]
    assert found("rank=") == found("lora") == ["lora rank=4", "lora rank=8", "lora rank=16"]


def test_a_method_is_switched_off_and_on_by_keyboard(quiet: Browser, paper: str) -> None:
    quiet.run("document.getElementById('method-lora').focus()")
    quiet.press(" ")
    assert not any(name.startswith("lora") for name in names(quiet))
    assert quiet.run("document.querySelectorAll('#trade .point').length") == 7
    assert quiet.run("document.activeElement.id") == "method-lora"
    assert quiet.run("document.activeElement.getAttribute('aria-pressed')") == "false"
    quiet.until("location.hash === '#hide=lora'")
    quiet.press(" ")
    assert len(names(quiet)) == 10


@pytest.mark.parametrize("limit", [0.0, 1.5, 2.0])
def test_the_limit_ranks_by_target_accuracy_among_what_keeps_to_it(
    quiet: Browser, put: Put, papers_page: str, board_lines: list[Line], limit: float
) -> None:
    put(papers_page, f"#limit={limit}")
    kept = [line for line in board_lines if line["forgetting_mean"] <= limit + 1e-6]
    rest = [line for line in board_lines if line not in kept]
    maybe = [line for line in rest if line["forgetting_low"] <= limit + 1e-6]

    def best_first(some: list[Line]) -> list[str]:
        return [line["label"] for line in sorted(some, key=lambda line: -line["target_accuracy_mean"])]

    lost = [line for line in rest if line not in maybe]
    assert names(quiet) == [*best_first(kept), *best_first(maybe), *best_first(lost)]
    ranks = [cells[0] for cells in table(quiet)]
    assert ranks[: len(kept)] == [str(rank + 1) for rank in range(len(kept))]
    assert ranks[len(kept) :] == [*(f"({len(kept) + rank + 1})" for rank in range(len(maybe))), *["–"] * len(lost)]
    said = quiet.run("document.getElementById('ranking').innerText")
    assert said.startswith(f"Ranked by target accuracy. {len(kept)} forget at most {limit:.1f} points")


def test_the_slider_ranks_anew_as_it_moves(quiet: Browser, paper: str) -> None:
    before = names(quiet)
    quiet.run("document.getElementById('limit').focus()")
    quiet.press("Home")
    assert quiet.run("document.getElementById('limit-said').innerText") == "0.0 points"
    assert names(quiet)[0] != before[0]
    assert quiet.run("document.querySelectorAll('#trade .point.dim').length") > 0
    for _ in range(3):
        quiet.press("ArrowRight")
    quiet.until("location.hash === '#limit=1.5'")
    quiet.press("End")
    assert quiet.run("document.getElementById('limit-said').innerText") == "any amount"
    assert names(quiet) == before


def test_points_are_reached_and_chosen_by_keyboard(quiet: Browser, paper: str) -> None:
    assert quiet.run("document.querySelectorAll('#trade .point[tabindex=\"0\"]').length") == 1
    quiet.run("document.querySelector('#trade .point[tabindex=\"0\"]').focus()")
    first = quiet.run("document.activeElement.getAttribute('aria-label')")
    quiet.press("ArrowRight")
    second = quiet.run("document.activeElement.getAttribute('aria-label')")
    assert first != second
    assert quiet.run("document.getElementById('tip').innerText").splitlines()[0] == second.split(";")[0]
    quiet.press("Enter")
    assert quiet.run("document.getElementById('row-title').innerText") == second.split(";")[0]
    assert quiet.run("document.activeElement.getAttribute('aria-label')") == second  # the focus stays
    quiet.press("Escape")
    assert quiet.run("document.getElementById('tip').hidden")


def test_hovering_tells_a_points_numbers(quiet: Browser, paper: str, board_lines: list[Line]) -> None:
    line = next(line for line in board_lines if line["label"] == "full")
    quiet.hover('#trade .point[data-key="0:full"] .halo')
    said = quiet.run("document.getElementById('tip').innerText").splitlines()
    assert said[:2] == ["full", f"Target {cell(line, 'target_accuracy')}"]
    assert f"On the Pareto front: {round(100 * line['pareto_probability'])} %" in said


def copied(window: Browser, kind: str) -> str:
    """What is copied, where the browser forbids the clipboard: it is shown, and selected."""
    window.run("navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'))")
    window.click(f"[data-copy={kind}]")
    window.until("document.getElementById('copied').open")
    text: str = window.run("document.getElementById('copied-text').value")
    assert window.run("getSelection().toString().length") > 0
    window.press("Escape")
    window.until("!document.getElementById('copied').open")
    return text


def test_rows_are_copied_as_they_are_shown(
    quiet: Browser, paper: str, paper_records: MakeAll, board_lines: list[Line]
) -> None:
    quiet.click("#sort-forgetting")
    quiet.click("#method-linear")
    order = names(quiet)
    by_label = {line["label"]: line for line in board_lines}
    read = list(csv.DictReader(io.StringIO(copied(quiet, "csv"))))
    assert [line["row"] for line in read] == order
    for line in read:
        assert float(line["mean_mean"]) == by_label[line["row"]]["mean_mean"]
        assert float(line["forgetting_low"]) == by_label[line["row"]]["forgetting_low"]
        assert float(line["best_probability"]) == by_label[line["row"]]["best_probability"]
        assert json.loads(line["hyperparameters"]) == json.loads(by_label[line["row"]]["hyperparameters"])
    markdown = copied(quiet, "markdown").splitlines()
    board = build(paper_records())
    told = {line.split(" | ")[0]: line.split(" | ") for line in leaderboard.markdown(board).splitlines()}
    for line, label in zip(markdown[2:], order, strict=False):
        cells = told[f"| {label}"]
        assert line.split(" | ")[:8] == [*cells[:4], *cells[5:9]]
    assert markdown[2 + len(order) :][:4] == ["", "Launch: paper on tiny", "", findings.interval_legend(board)]
    latex = copied(quiet, "latex")
    assert "  block\\_expansion p=1 & " in latex
    assert "\n% Launch: paper on tiny\n% In brackets: the 95 % interval" in latex
    assert latex.count("\\\\\n") == len(order) + 1


def test_the_clipboard_is_used_where_it_may_be(quiet: Browser, paper: str) -> None:
    quiet.run("navigator.clipboard.writeText = text => { window.written = text; return Promise.resolve(); }")
    quiet.click("[data-copy=csv]")
    quiet.until("document.getElementById('status').innerText")
    assert quiet.run("document.getElementById('status').innerText") == "10 rows copied as CSV"
    assert quiet.run("window.written").startswith("row,method,")


@pytest.fixture
def whole(record: Make, searched: Make) -> list[Record]:
    """A launch of which every panel has something to show."""
    lost = searched(trial="full-search-02", hyperparameters={"lr": 9.0}, readings=(), status="failed", error="NaN")
    return [
        way(searched, "full-search-00", 0.001, (0, 1, 2, 3)),
        way(searched, "full-search-01", 0.1, (0, 4, 5, 6)),
        lost,
        confirmed(record, 0, [0, 1, 1, 2]),
        confirmed(record, 1, [0, 2, 1, 1]),
    ]


def test_a_row_shows_its_search_classes_curves_and_records(
    quiet: Browser, show: Show, whole: list[Record], tmp_path: Path
) -> None:
    LaunchFolder(tmp_path).keep_tensors("full-confirm-seed1", b"tensors")
    show(whole)
    quiet.until("document.querySelectorAll('#row-body .chart .point').length === 3")
    body = quiet.run("document.getElementById('row-body').innerText")
    for said in ("2 trials; 1 without a result (crosses); ringed: confirmed", "Peak memory\n5 MB", "Checkpoint\n1 kB"):
        assert said in body
    bars = quiet.run("[...document.querySelectorAll('.bars.classes li')].map(e => e.innerText.split(/\\s+/).join(' '))")
    assert bars == ["<b> 50.0 of 2", "cat 50.0 of 4", "dog 100.0 of 2"]
    lost = "[...document.querySelectorAll('.bars.forgotten li')].map(e => e.innerText.split('\\n').join(' '))"
    assert quiet.run(lost) == [
        "<i>frame 50.0 (100.0 to 50.0)",
        "disk 25.0 (100.0 to 75.0)",
        "triangle 0.0 (0.0 to 0.0)",
    ]
    gone = "[...document.querySelectorAll('.bars.forgotten .gone')].map(e => e.style.width)"
    assert quiet.run(gone) == ["50%", "25%", "0%"]
    cells = quiet.run("[...document.querySelectorAll('.cell title')].map(e => e.textContent)")
    assert "cat taken for dog: 1 of 4 (25 %)" in cells
    assert quiet.run("document.querySelector('#curves .line').getAttribute('d').split('L').length") == 4
    links = quiet.run("[...document.querySelectorAll('#row-body a')].map(e => e.getAttribute('href'))")
    assert {"./records/full-confirm-seed0.json", "./checkpoints/full-confirm-seed1.safetensors"} <= set(links)
    assert "./checkpoints/full-confirm-seed0.safetensors" not in links  # it is not there; the record says how large
    linked = "[...document.querySelectorAll('#row-body tr')].filter(e => e.querySelector('a[href*=seed]'))"
    assert quiet.run(f"{linked}.map(e => e.lastElementChild.innerText)") == ["1 kB", "1 kB"]
    assert "./records/full-search-02.json" in links


def test_what_was_searched_is_drawn_with_one_trial_and_where_a_trial_lacks_it(
    quiet: Browser, show: Show, record: Make, searched: Make, tmp_path: Path
) -> None:
    ends = {"lr": {"low": 0.001, "high": 1.0, "log": True}, "decay": {"low": 0.0, "high": 0.5}}
    asked = {"asked": {"study": {"a": {"method": "full", "search": ends}}}}
    LaunchFolder(tmp_path).manifest.write_text(json.dumps(asked))
    first, second = {"lr": 0.1, "decay": 0.25}, {"lr": 0.02}
    show([searched(trial="full-search-00", hyperparameters=first), record(hyperparameters=first)])
    drawn = "['.point', '.edge'].map(e => document.querySelectorAll(`#row-body .chart ${e}`).length)"
    quiet.until(f"{drawn}[0]")
    assert quiet.run(drawn) == [1, 2]
    body = quiet.run("document.getElementById('row-body').innerText")
    for said in ("1 trial; ringed: confirmed; dashed: ends of the range.", "Records of 1 search trial", "× 1 trial\n"):
        assert said in body
    assert "☆ 100 %" in table(quiet)[0]  # of one seed there is no star
    trials = [searched(trial=f"full-search-0{i}", hyperparameters=own) for i, own in enumerate((first, second))]
    show([*trials, record(hyperparameters=first)], state="#hp=decay")
    quiet.until(f"{drawn}[0]")
    assert quiet.run(drawn) == [1, 2]
    assert "1 trial; 1 without decay (not drawn); ringed" in quiet.run("document.getElementById('row-body').innerText")
    quiet.run("setState({hp: 'lr'})")
    quiet.until(f"{drawn}[0] === 2")


FRAME = """
addEventListener('load', async () => {
  const dialog = document.getElementById('copied'), body = document.getElementById('row-body').innerText;
  document.querySelector('[data-copy=csv]').click();
  while (!dialog.open) await new Promise(done => setTimeout(done, 20));
  document.getElementById('close').click();
  parent.postMessage([dialog.open, [...document.querySelectorAll('main a')].map(e => e.href), body], '*');
});
"""
"""Beside the page's own script: what it tells its parent."""


def test_in_the_frame_of_another_page_nothing_leads_nowhere(
    quiet: Browser, tmp_path: Path, whole: list[Record]
) -> None:
    """As MLflow shows it: its frame forbids forms, has no address, and none of the launch's files beside it."""
    board = build(whole)
    text = page.render([page.launch(board, gather(board, whole))])
    text = text.replace("script-src ", f"script-src '{page._digest(FRAME)}' ", 1)
    text = text.replace("</body>", f"<script>{FRAME}</script></body>")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<script>addEventListener('message', event => { window.told = event.data; })</script>"
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(text)}"></iframe>',
        encoding="utf-8",
    )
    quiet.open(outer.as_uri())
    quiet.until("window.told")
    is_open, links, body = quiet.run("told")
    assert (is_open, links) == (False, [])
    assert "full-confirm-seed0" in body  # which record to look for


def test_a_list_of_many_classes_is_shown_whole_if_wanted_and_the_address_remembers(
    quiet: Browser, show: Show, record: Make
) -> None:
    quiet.media(prefers_reduced_motion="reduce")  # what has the focus is scrolled to, and then clicked
    every = list(range(20))
    half = kept(150, [number % 2 == 0 for number in every])
    made = record(readings=(kept(0, [True] * 20, every), half, head(150, every, [0] * 20)))
    address = show([made])
    shown = "['classes', 'forgotten'].map(e => document.querySelectorAll(`.bars.${e} li`).length)"
    assert quiet.run(shown) == [12, 12]
    quiet.run("document.getElementById('all-forgotten').focus()")
    quiet.press("Enter")
    assert quiet.run(shown) == [12, 20]
    assert quiet.run("[document.activeElement.id, document.activeElement.getAttribute('aria-expanded')]") == [
        "all-forgotten",
        "true",
    ]
    quiet.until("location.hash === '#whole=forgotten'")
    quiet.click("#all-classes")
    quiet.until("location.hash === '#whole=forgotten%2Cclasses'")
    quiet.open(f"{address}#whole=forgotten")
    assert quiet.run(shown) == [12, 20]
    quiet.click("#all-forgotten")
    assert quiet.run(shown) == [12, 12]


def test_panels_without_data_say_so(quiet: Browser, paper: str) -> None:
    said = quiet.run("document.getElementById('main').innerText")
    for words in (
        "These records do not say what each test image was taken for",
        "These records do not say which class each image of the source has",
        "No record of a search trial of this row is here.",
        "so there are no curves",
        "Not recorded: peak memory, checkpoint file.",
    ):
        assert words in said
    quiet.run("location.hash = 'x=peak_memory'")
    quiet.until("document.getElementById('cost').innerText.includes('do not say their peak memory')")


@pytest.mark.parametrize("records", ["mixed", "failed", "one"])
def test_boards_of_all_kinds_are_drawn(
    quiet: Browser, show: Show, paper_records: MakeAll, failed: Make, records: str
) -> None:
    some = paper_records(methods=["full", "lora"])
    chosen = {
        "mixed": [failed(one) if one.seed == 1 or one.row == {"rank": 8} else one for one in some],
        "failed": [failed(one) for one in some],
        "one": paper_records(methods=["linear"], seeds=(0,)),
    }[records]
    show(chosen, state="#limit=1")
    assert len(table(quiet)) == len(build(chosen).rows)


@pytest.mark.parametrize("state", ["#sort=nothing&limit=x&row=no&x=y&launch=7", "#%E0%A4%A", "#sort=__proto__&hide=,,"])
def test_an_address_of_nonsense_shows_the_page_all_the_same(
    quiet: Browser, put: Put, papers_page: str, state: str
) -> None:
    put(papers_page, state)
    assert len(table(quiet)) == 10


def test_texts_of_others_are_shown_and_do_nothing(quiet: Browser, show: Show, record: Make) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    show([record(method=evil, hyperparameters={"<b>lr": 0.1}, row={}, trial=evil.replace("/", ""))])
    assert names(quiet) == [evil]
    assert quiet.run("document.querySelectorAll('img').length") == 0
    assert quiet.run("document.title") == "paper on tiny"


def test_several_launches_are_looked_at_one_by_one_or_together(
    quiet: Browser, show: Show, paper_records: MakeAll
) -> None:
    show(paper_records(), paper_records(study="again", methods=["lora"]))
    assert len(names(quiet)) == 10
    quiet.run("location.hash = 'launch=1'")
    quiet.until("document.getElementById('title').innerText === 'again on tiny'")
    assert sorted(names(quiet)) == ["lora rank=16", "lora rank=4", "lora rank=8"]
    quiet.run("location.hash = 'launch=all'")
    quiet.until("document.getElementById('title').innerText === '2 launches'")
    assert len(names(quiet)) == 13
    assert "lora rank=8 (2)" in names(quiet)
    assert "within each launch" in quiet.run("document.getElementById('ranking').innerText")
    options = "[...document.querySelectorAll('#launch option')].map(e => e.innerText)"
    assert quiet.run(options) == ["1. paper on tiny", "2. again on tiny", "all launches"]
    quiet.click("[data-copy=csv]")


def test_launches_of_one_name_are_told_apart_by_where_they_lie(
    quiet: Browser, tmp_path: Path, paper_records: MakeAll
) -> None:
    board, shown = build(paper_records()), []
    for link in ("one/paper/tiny/", "other/paper/tiny/"):
        shown.append(page.launch(board, gather(board, []), link=link))
    file = tmp_path / "leaderboards.html"
    file.write_text(page.render(shown), encoding="utf-8")
    quiet.open(f"{file.as_uri()}#launch=all")
    said = quiet.run("document.getElementById('basis').innerText")
    told = ["1. paper on tiny (one/paper/tiny)", "2. paper on tiny (other/paper/tiny)"]
    assert said == " · ".join(told)
    assert {line["launch"] for line in csv.DictReader(io.StringIO(copied(quiet, "csv")))} == set(told)
    assert "\n\n" + "\n".join(told) + "\n\n" in copied(quiet, "markdown")
    assert "".join(f"% {name}\n" for name in told) in copied(quiet, "latex")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(quiet: Browser, show: Show, whole: list[Record], width: int, theme: str) -> None:
    """Contrast, names, labels, landmarks, order of headings, and whatever else axe-core knows of."""
    quiet.size(width, 900, mobile=width < 600)
    quiet.media(prefers_color_scheme=theme)
    show(whole, state="#limit=2")
    assert quiet.run("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)"
    assert quiet.axe() == []


def test_the_chosen_theme_goes_before_the_systems(quiet: Browser, paper: str) -> None:
    def ground() -> Any:
        return quiet.run("getComputedStyle(document.body).backgroundColor")

    light = ground()
    quiet.run("location.hash = 'theme=dark'")
    quiet.until("document.documentElement.dataset.theme === 'dark'")
    dark = ground()
    quiet.media(prefers_color_scheme="dark")
    quiet.run("location.hash = ''")
    quiet.until("document.documentElement.dataset.theme === undefined")
    assert (ground(), light != dark) == (dark, True)
    quiet.run("location.hash = 'theme=light'")
    quiet.until("document.documentElement.dataset.theme === 'light'")
    assert ground() == light


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_but_the_table_is_wider_than_a_phone(quiet: Browser, put: Put, papers_page: str, width: int) -> None:
    quiet.size(width, 700, mobile=True)
    put(papers_page)
    assert quiet.run("document.documentElement.scrollWidth") <= width
    least = quiet.run("Math.min(...[...document.querySelectorAll('.chip, .copy button')].map(e => e.offsetHeight))")
    assert least >= 24  # WCAG 2.2: the least size of what is touched


def test_long_names_are_broken_and_leave_room_for_the_numbers(
    quiet: Browser, show: Show, record: Make, searched: Make
) -> None:
    quiet.size(390, 700, mobile=True)
    study, name = "s" * 150, "d" * 200
    about = {"study": study, "method": "m" * 95, "row": {"data": "w" * 80}}
    values = [{"data": "w" * 80, "lr": 0.1, name: value} for value in (0.1, 0.2)]
    own = record(**about, hyperparameters=values[0], trial="t" * 90)
    trials = [searched(**about, hyperparameters=value, trial=f"t{value[name]}") for value in values]
    show([own, *trials], [record(study=study)], state=f"#launch=all&hp={name}")
    quiet.until("document.querySelectorAll('#row-body .chart .point').length")
    broken = "h1, #basis, #findings li, .chip, #row-title, select, #provenance p, .name-cell span, .small"
    wide = f"[...document.querySelectorAll('{broken}')].filter(e => e.getBoundingClientRect().right > 390).length"
    for launch in ("all", "0"):
        quiet.run(f"setState({{launch: '{launch}'}})")
        assert quiet.run("document.documentElement.scrollWidth") <= 390
        assert quiet.run(wide) == 0
        assert quiet.run("document.querySelector('tbody .name-cell').offsetWidth") <= 0.55 * 390


def test_paper_shows_rows_and_pictures_without_controls(quiet: Browser, paper: str) -> None:
    quiet.media("print")
    for hidden in ("#filter", "#limit", ".copy", ".settings"):
        assert quiet.run(f"document.querySelector({hidden!r}).offsetParent") is None, hidden
    assert quiet.run("document.querySelector('#board').getBoundingClientRect().width") > 300
    assert quiet.run("document.querySelectorAll('#trade .point').length") == 10
    assert quiet.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_page_may_ask_for_nothing(window: Browser, tmp_path: Path, paper_records: MakeAll) -> None:
    """Even a script that got in could not: the policy is in force, and is not just written down."""
    records = paper_records(methods=["full"])
    file = tmp_path / "index.html"
    file.write_text(page.render([page.launch(build(records), gather(build(records), records))]), encoding="utf-8")
    window.open(file.as_uri())
    window.run("window.refused = []")
    window.run("addEventListener('securitypolicyviolation', e => refused.push(e.effectiveDirective))")
    assert window.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    window.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    window.run("new Image().src = 'http://127.0.0.1:9/x.png'")
    window.until("refused.length >= 3")
    assert sorted(window.run("refused"))[:2] == ["connect-src", "img-src"]
    assert window.run("window.ran") is None
