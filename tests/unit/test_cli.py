"""The command lines as a person meets them: in processes of their own, from any folder, with every kind of mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.records import Record
from tests.contract.test_folders import classes

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, str(ROOT / "launch.py")]
BENCH = [sys.executable, "-m", "bench"]
LORA = "method: lora\nsearch:\n  rank: {choices: [4, 8]}\n  lr: {low: 0.01, high: 0.3, log: true}\nrows: [rank]\n"


def call(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call([*LAUNCH, *arguments], folder)


def refused(folder: Path, *arguments: str) -> str:
    """The one line that a bad request gets; `--dry-run`, so that one that is accepted by mistake starts no study."""
    began = time.monotonic()
    done = launch(folder, "--dry-run", *arguments)
    assert time.monotonic() - began < 10
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def test_help_teaches(tmp_path: Path) -> None:
    done = launch(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "examples:" in done.stdout
    assert "python launch.py --study block_expansion --dry-run" in done.stdout
    for option in ("--study", "--benchmark", "--trials", "--seeds", "--num-workers", "--slots", "--address"):
        assert option in done.stdout
    for option in ("--results", "--tracking-uri", "--set", "--dry-run", "--list", "--source", "--target"):
        assert option in done.stdout


def test_list_shows_studies_benchmarks_methods_and_fields(tmp_path: Path) -> None:
    done = launch(tmp_path, "--list")
    assert (done.returncode, done.stderr) == (0, "")
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        assert re.search(rf"^  {path.stem} +\S", done.stdout, re.MULTILINE)
    for word in ("tiny", "digits", "shapes", "rank", "dropout", "weight_decay", "label_smoothing", "vit-b16-224-dino"):
        assert re.search(rf"\b{word}\b", done.stdout)
    assert call([*BENCH, "list"], tmp_path).stdout == done.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_paper_shows_rows_and_exact_parameter_counts(tmp_path: Path) -> None:
    done = launch(tmp_path, "--study", "paper", "--dry-run", "--num-workers", "1", "--slots", "1")
    assert (done.returncode, done.stderr) == (0, "")
    rows = re.findall(r"^ +(\S.*?) +(\d[\d,]*(?: to [\d,]+)?) trainable parameters$", done.stdout, re.MULTILINE)
    # One block has 49,984 parameters, the head 650, and one rank of LoRA on q and v 12 x 2 x (64 + 64).
    assert rows == [
        ("full", "614,090"),
        ("top_k k=3", "150,602"),
        ("linear", "650"),
        ("lora rank=4", "12,938"),
        ("lora rank=8", "25,226"),
        ("lora rank=16", "49,802"),
        ("block_expansion p=1", "50,634"),
        ("block_expansion p=2", "100,618"),
        ("block_expansion p=3", "150,602"),
        ("block_expansion p=4", "200,586"),
    ]
    assert "In all:    90 trials of 150 steps x 64 images" in done.stdout
    assert "1 slot x 1 worker, one " in done.stdout
    assert f"{tmp_path / 'results' / 'paper' / 'tiny'}" in done.stdout
    assert f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}" in done.stdout
    assert "Nothing was started" in done.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_dry_run_of_the_papers_table_needs_neither_weights_nor_images(tmp_path: Path) -> None:
    for part in ("train", "val"):
        classes(tmp_path / part, names=("n01", "n02"), count=4)
    asked = f"--study paper --benchmark cifar100 --source imagenet1k:{tmp_path} --dry-run --num-workers 1 --slots 1"
    done = launch(tmp_path, *asked.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^ +(\S.*?) +(\d[\d,]*) trainable parameters$", done.stdout, re.MULTILINE) == [
        ("full", "85,875,556"),
        ("top_k k=3", "21,340,516"),
        ("linear", "76,900"),
        ("lora rank=4", "224,356"),
        ("lora rank=8", "371,812"),
        ("lora rank=16", "666,724"),
        ("block_expansion p=1", "7,164,772"),
        ("block_expansion p=2", "14,252,644"),
        ("block_expansion p=3", "21,340,516"),
        ("block_expansion p=4", "28,428,388"),
    ]
    assert "90 trials of 10,000 steps x 128 images; 115,200,000 training images seen" in done.stdout


def test_dry_run_says_that_rows_will_be_missing(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(LORA)
    done = launch(tmp_path, "--study", "mine.yaml", "--dry-run", "--trials", "1")
    assert done.returncode == 0, done.stderr
    assert "trials = 1 is less than one a row: only so many rows are tried" in done.stdout
    assert "In all:    4 trials" in done.stdout


def test_dry_run_shows_what_was_overridden(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(LORA)
    asked = "--study mine.yaml --dry-run --trials 3 --seeds 4 5 --set train.steps=7 --set search.rank.choices=[2]"
    done = launch(tmp_path, *asked.split())
    assert done.returncode == 0, done.stderr
    assert "mine: 3 search trials for the best mean, then 1 row x 2 seeds = 2 confirmations" in done.stdout
    assert re.search(r"lora rank=2 +6,794 trainable", done.stdout)
    assert "5 trials of 7 steps x 64 images" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "say which study to run with --study"),
        ("--study blok_expansion", "unknown study 'blok_expansion'; did you mean 'block_expansion'?"),
        ("--study lora --benchmark tinny", "unknown benchmark 'tinny'; did you mean 'tiny'?"),
        ("--study lora --target digit", "unknown target data set 'digit'; did you mean 'digits'?"),
        ("--study lora --target shapes", "data set 'shapes' cannot be a target"),
        ("--study lora --set target.sample=100", "unknown field 'target.sample'; did you mean 'target.samples'?"),
        ("--study lora --set source.per_class=many", "source.per_class = 'many'"),
        ("--study lora --set backbone.nam=x", "did you mean 'backbone.name'?"),
        ("--study lora --benchmark folder:/nowhere --source shapes", "there is no folder /nowhere"),
        ("--study lora --benchmark folder:", "say which folder"),
        ("--study lora --benchmark cifar100", "give --source imagenet1k:/data/imagenet"),
        ("--study lora --num-worker 2", "unknown argument '--num-worker'; did you mean --num-workers?"),
        ("--study lora --trails=2", "unknown argument '--trails'; did you mean --trials?"),
        ("--study lora extra", "unknown argument 'extra'"),
        ("--study", "--study"),
        ("--study lora --trials many", "--trials"),
        ("--study lora --trials 0", "--trials must be at least 1, not 0"),
        ("--study lora --seeds 1 1", "seeds must differ, not [1, 1]"),
        ("--study lora --seeds -1", "-1"),
        ("--study lora --seeds", "--seeds"),
        ("--study lora --num-workers 0", "--num-workers must be at least 1, not 0"),
        ("--study lora --slots -1", "--slots must be at least 1, not -1"),
        ("--study lora --set train.batch_size=4096 --num-workers 4096", "--num-workers 4096 asks for more than the"),
        ("--study lora --slots 4096", "--slots 4096 with --num-workers 1 needs 4096"),
        ("--study lora --num-workers 3", "batch_size = 64 does not divide among --num-workers 3"),
        ("--study lora --set train.step=1", "unknown field 'step'; did you mean 'steps'?"),
        ("--study lora --set search.ranck.choices=[1]", "did you mean 'search.rank'?"),
        ("--study lora --set train.steps=many", "steps = 'many'"),
        ("--study lora --set train.momentum=1.5", "momentum = 1.5"),
        ("--study lora --set search.rank.choices=[0]", "lora: rank = 0"),
        ("--study lora --set train.steps", "must have the form name=value"),
        ("--study lora --set trials.x=3", "trials"),
        ("--study paper --set search.dropout.low=0", "no study of the suite 'paper' has this field"),
        ("--study block_expansion --set search.p.choices=[1,5]", "p = 5 does not divide the backbone's 12 blocks"),
        ("--study lora --tracking-uri http://127.0.0.1:9", "there is no MLflow server at http://127.0.0.1:9"),
        ("--study lora --tracking-uri htp://127.0.0.1", "'htp://127.0.0.1' is no MLflow store"),
        ("--study lora --tracking-uri mlflow.db", "'mlflow.db' is no MLflow store"),
        ("--study lora --tracking-uri http://127.0.0.1:port", "--tracking-uri: "),
        ("--study lora --tracking-uri http://", "--tracking-uri: "),
        ("--study lora --tracking-uri http://[", "--tracking-uri: "),
        ("--study lora --tracking-uri sqlite:////nowhere/at/all/mlflow.db", "does not exist or cannot be written to"),
    ],
)
def test_a_mistake_ends_in_one_sentence(tmp_path: Path, arguments: str, said: str) -> None:
    assert said in refused(tmp_path, *arguments.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LORA.replace("lora", "lorra"), "unknown method 'lorra'; did you mean 'lora'?"),
        (LORA.replace("rows", "row"), "unknown field 'row'; did you mean 'rows'?"),
        (LORA.replace("rank", "ranc"), "unknown field of lora 'search.ranc'; did you mean 'search.rank'?"),
        (LORA.replace("[4, 8]", "[four]"), "lora: rank = 'four'"),
        (LORA.replace("0.3, log: true}", "0.3, log: true"), "mine.yaml, line 5: this is not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert said in refused(tmp_path, "--study", "mine.yaml")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_results_that_cannot_be_written_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refused(tmp_path, "--study", "lora", "--results", place)
    assert message.startswith(f"--results {tmp_path / place} cannot be written to: ")


def test_a_leaderboard_is_rebuilt_from_records(tmp_path: Path, paper_records: Callable[..., list[Record]]) -> None:
    for record in paper_records():
        record.write(tmp_path / "records")
    done = call([*BENCH, "leaderboard", "."], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "paper on tiny, 3 seeds" in done.stdout
    assert "95.5 ± 0.3" in done.stdout
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert sorted(made) == ["leaderboard.csv", "leaderboard.json", "leaderboard.md", "pareto.png"]
    assert call([*BENCH, "leaderboard", "."], tmp_path).returncode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == made


@pytest.mark.parametrize("content", [None, "{}", "{"])
def test_a_folder_without_records_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "x.json").write_text(content)
    done = call([*BENCH, "leaderboard", str(tmp_path)], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert ("x.json is not a record" if content else "there are no records") in done.stderr


@pytest.mark.parametrize("arguments", [[], ["leaderbord", "x"], ["pretrain", "tinny"], ["leaderboard"]])
def test_bad_commands_of_bench_exit_2(tmp_path: Path, arguments: list[str]) -> None:
    done = call([*BENCH, *arguments], tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
