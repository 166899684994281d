"""Every command and every Python block of the documentation is run here, or says why it is not (``# not run: ...``)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file, save

from bench.__main__ import main
from bench.folder import LaunchFolder
from bench.launching import cli
from bench.records import Record
from bench.reporting import archive

from .conftest import ROOT, Run
from .test_readme import COMMANDS, succeed

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("small")]

FENCE = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.M | re.S)
INDENTED = re.compile(r"^    ((?:python|optuna-dashboard|make|mlflow|ray|pip) .*(?<!\\)(?:\\\n.*)*)$", re.M)
NOT_RUN = re.compile(r"# not run: \S+")
BLOCKS = {page: list(FENCE.finditer(page.read_text())) for page in sorted((ROOT / "docs").glob("*.md"))}


@dataclass(frozen=True)
class Command:
    """A command line of a page."""

    page: str
    line: str

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def commands() -> Iterator[Command]:
    """All command lines, in the order of the pages; what a page says after a # is kept."""
    for page, blocks in BLOCKS.items():
        shells = [block["text"] for block in blocks if block["kind"] in ("sh", "bash")]
        lines = [line for text in shells for line in text.replace("\\\n", " ").splitlines()]
        lines += [line.replace("\\\n", " ") for line in INDENTED.findall(FENCE.sub("", page.read_text()))]
        yield from (Command(page.stem, line.strip()) for line in lines if line.strip())


ALL = list(commands())
TO_RUN = list({command.line: command for command in ALL if not NOT_RUN.search(command.line)}.values())


def test_what_is_not_run_says_why() -> None:
    left_out = [command for command in ALL if NOT_RUN.search(command.line)]
    assert len(TO_RUN) > 20
    assert len(left_out) < len(TO_RUN) / 2


@pytest.fixture(scope="module")
def prepared(small: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: results, an archive, an exported model, pictures, and the files that they show."""
    place = tmp_path_factory.mktemp("docs")
    for name in ("paper", "pareto", "block_expansion"):
        shutil.copytree(small.folder, place / "results" / name / "tiny", ignore=shutil.ignore_patterns("ray", "logs"))
    shutil.copy(small.folder.parents[1] / "mlflow.db", place / "results")
    record = small.folder / "records" / "block_expansion-confirm-p1-seed0.json"
    as_a_probe(record, LaunchFolder(place / "results" / "linear" / "tiny"))
    archive.pack(LaunchFolder(small.folder), place / "paper-tiny.tar.gz")
    archive.pack(LaunchFolder(small.folder), place / "paper-tiny-with-models.tar.gz", checkpoints=True)
    assert main(["export", str(record), "--out", str(place / "model.safetensors")]) == 0
    Image.new("L", (50, 70), 128).save(place / "picture.png")
    for folder in ("birds", "photos"):
        for index in range(60):
            picture = place / folder / ("heron", "kite")[index % 2] / f"{index}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (index, 4 * index, len(folder))).save(picture)
    (place / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "grid.csv", place / "docs")
    for blocks in BLOCKS.values():
        for block in blocks:
            if block["title"]:
                (place / block["title"]).write_text(block["text"])
    return place


def as_a_probe(record: Path, folder: LaunchFolder) -> None:
    """Write a confirmed trial as if only its head had been trained."""
    values = json.loads(record.read_text())
    changed = {"method": "linear", "row": {}, "hyperparameters": {"lr": values["hyperparameters"]["lr"]}}
    config = {**values["config"], **changed, "id": "linear-confirm-seed0", "fields": {}}
    Record.model_validate_json(
        json.dumps({**values, **changed, "trial": "linear-confirm-seed0", "config": config})
    ).write(folder.records)
    tensors = load_file(LaunchFolder.holding(record).checkpoint(record.stem))
    head = {name: tensor for name, tensor in tensors.items() if name.startswith(("head.", "fc_norm."))}
    folder.keep_tensors("linear-confirm-seed0", save(head))


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("command", TO_RUN, ids=str)
def test_command(command: Command, here: Path) -> None:
    words = shlex.split(command.line, comments=True)
    if words[0] == "make":
        assert succeed(["make", "--dry-run", "--always-make", *words[1:]])
    elif words[:2] == ["python", "launch.py"] or words[:2] == ["vit-forgetting-bench", "launch"]:
        launch(words[2:])
    elif words[:3] == ["python", "-m", "bench"]:
        bench(words[3:])
    else:  # a test of the README runs it
        assert shlex.join(words) in [shlex.join(shlex.split(known)) for known in COMMANDS]


def launch(arguments: list[str]) -> None:
    """Everything but the start: a plan is made and checked."""
    extra = [] if "--list" in arguments or "--dry-run" in arguments else ["--dry-run"]
    assert cli.main([*arguments, *extra]) == 0


def bench(arguments: list[str]) -> None:
    if "--out" in arguments and arguments[0] == "pack":
        Path(arguments[arguments.index("--out") + 1]).unlink()
    assert main(arguments) == 0


PYTHON = [
    (page.stem, block["text"])
    for page, blocks in BLOCKS.items()
    for block in blocks
    if block["kind"] == "python" and not NOT_RUN.search(block["text"])
]


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page}-{index}" for index, (page, _) in enumerate(PYTHON)])
def test_python(page: str, code: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, f"docs/{page}.md", "exec"), {})
