"""The command lines as a person meets them: from any folder, with every kind of mistake."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import launch
from bench import __main__, data, models
from bench.launching import command
from bench.records import Record
from bench.spec import Backbone
from tests.contract.test_folders import classes

ROOT = Path(__file__).resolve().parents[2]
LORA = "method: lora\nsearch:\n  rank: {choices: [4, 8]}\n  lr: {low: 0.01, high: 0.3, log: true}\nrows: [rank]\n"

Main = Callable[[Sequence[str] | None], int]


@dataclass(frozen=True)
class Done:
    """What a person sees of a command."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """What most commands need, and takes longer to load than they take."""
    for name in ("matplotlib.pyplot", "pandas", "peft"):
        importlib.import_module(name)
    models.depth(Backbone(name="vit_tiny_patch16_224"))
    data.target("digits")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the entry point of a command line from an empty folder, in this process: to start one takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(main: Main, *arguments: str) -> Done:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
        return Done(code, *capsys.readouterr())

    return run


def process(folder: Path, *command: str) -> Done:
    """The same as a process of its own, as a person starts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    return Done(done.returncode, done.stdout, done.stderr)


def complaint(done: Done) -> str:
    """The one line that a bad request gets."""
    assert (done.code, done.out) == (2, ""), done
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def refused(call: Call, *arguments: str) -> str:
    """What is said of a bad request; `--dry-run`, so that one that is accepted by mistake starts no study."""
    began = time.monotonic()
    said = complaint(call(launch.main, "--dry-run", *arguments))
    assert time.monotonic() - began < 10
    return said


def test_help_teaches(tmp_path: Path) -> None:
    done = process(tmp_path, str(ROOT / "launch.py"), "--help")
    assert (done.code, done.err) == (0, "")
    assert "examples:" in done.out
    assert "python launch.py --study block_expansion --dry-run" in done.out
    for option in ("--study", "--benchmark", "--trials", "--seeds", "--num-workers", "--slots", "--address"):
        assert option in done.out
    for option in ("--results", "--tracking-uri", "--set", "--dry-run", "--list", "--source", "--target"):
        assert option in done.out


def test_a_mistake_in_a_process_of_its_own_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    began = time.monotonic()
    done = process(tmp_path, str(ROOT / "launch.py"), "--study", "blok_expansion", "--dry-run")
    assert time.monotonic() - began < 10
    assert complaint(done).startswith("unknown study 'blok_expansion'; did you mean 'block_expansion'?")


def test_bench_is_a_command_of_its_own(tmp_path: Path) -> None:
    done = process(tmp_path, "-m", "bench", "leaderboard", "nowhere")
    assert complaint(done) == "there are no records in nowhere/records; run a study first"


@pytest.mark.parametrize("main", [launch.main, __main__.main], ids=["launch.py", "bench"])
def test_help_ends_with_success(call: Call, main: Main) -> None:
    done = call(main, "--help")
    assert (done.code, done.err) == (0, "")
    assert "examples:" in done.out


def test_list_shows_studies_benchmarks_methods_and_fields(tmp_path: Path, call: Call) -> None:
    done = call(launch.main, "--list")
    assert (done.code, done.err) == (0, "")
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        assert re.search(rf"^  {path.stem} +\S", done.out, re.MULTILINE)
    for word in ("tiny", "digits", "shapes", "rank", "dropout", "weight_decay", "label_smoothing", "vit-b16-224-dino"):
        assert re.search(rf"\b{word}\b", done.out)
    assert call(__main__.main, "list") == done
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_paper_shows_rows_and_exact_parameter_counts(tmp_path: Path, call: Call) -> None:
    done = call(launch.main, "--study", "paper", "--dry-run", "--num-workers", "1", "--slots", "1")
    assert (done.code, done.err) == (0, "")
    rows = re.findall(r"^ +(\S.*?) +(\d[\d,]*(?: to [\d,]+)?) trainable parameters$", done.out, re.MULTILINE)
    # One block has 49,984 parameters, the head 650, and one rank of LoRA on q and v 12 x 2 x (64 + 64).
    assert rows == [
        ("full", "614,090"),
        ("top_k k=3", "150,602"),
        ("linear budget=1", "650"),
        ("linear budget=10", "650"),
        ("lora rank=4", "12,938"),
        ("lora rank=8", "25,226"),
        ("lora rank=16", "49,802"),
        ("block_expansion p=1", "50,634"),
        ("block_expansion p=2", "100,618"),
        ("block_expansion p=3", "150,602"),
        ("block_expansion p=4", "200,586"),
    ]
    assert "In all:    113 trials of 150 steps x 64 images or 1,500 steps x 64 images" in done.out
    assert "1 slot x 1 worker, one " in done.out
    assert f"{tmp_path / 'results' / 'paper' / 'tiny'}" in done.out
    assert f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}" in done.out
    assert "Nothing was started" in done.out
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("field", ["source.per_class", "source.confirm_per_class"])
def test_a_bank_that_is_smaller_than_k_is_refused_at_once(tmp_path: Path, call: Call, field: str) -> None:
    pictures = f"folder:{classes(tmp_path, names=('a', 'b', 'c'), count=20)}"
    done = call(launch.main, "--study", "linear", "--source", pictures, "--set", f"{field}=6", "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert "bank holds 18 images, and k-NN with k = 20 needs at least 20" in done.err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("linear --source digits --set source.per_class=1", "bank holds 10 images, and k-NN with k = 20 needs"),
        ("linear --source digits --set source.confirm_per_class=1", "bank holds 10 images, and k-NN with k = 20 needs"),
        ("linear --set target.samples=5", "leaves 6 of digits's 10 classes without a training image"),
        ("linear --set target.samples=100000", "needs 80000 train images, and digits has 997"),
        ("full --set train.views=2", "train.views needs a frozen beginning"),
        ("full --target dtd --set train.views=2", "train.views needs a frozen beginning"),
        ("linear --set train.views=10000000", "GiB for activations"),
        ("linear --set train.epochs=1 --set train.warmup_steps=16", "warmup_steps = 16 leaves"),
    ],
)
def test_a_dry_run_refuses_what_the_launch_would(asked: str, said: str, call: Call) -> None:
    assert said in refused(call, "--study", *asked.split(), "--num-workers", "1")


def test_a_dry_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    """Neither the results folder nor stores in it or beside it, whatever makes them when the launch starts."""
    monkeypatch.chdir(tmp_path)
    for more in (
        [],
        ["--results", "far/away", "--tracking-uri", "sqlite:///far/away/mlflow.db"],
        ["--results", "far/away", "--optuna-storage", "far/away/searches.log"],
        ["--results", "far/away", "--optuna-storage", "sqlite:///far/optuna.db", "--json"],
        ["--optuna-storage", "searches.log"],
        ["--optuna-storage", "sqlite:///optuna.db"],
    ):
        assert call(launch.main, "--study", "linear", "--dry-run", *more).code == 0
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (" ", "' ' is blank in part, or holds control characters: choose another name"),
        ("a/ /b", "'a/ /b' is blank in part, or holds control characters"),
        ("a\nb", "is blank in part, or holds control characters"),
        ("a\x1b[31m", "is blank in part, or holds control characters"),
        ("file/below", "cannot be written to: Not a directory"),
        ("file", "cannot be written to: Not a directory"),
        ("x" * 300, "cannot be written to: File name too long"),
        ("/proc/nowhere/at/all", "--results /proc/nowhere/at/all cannot be written to: "),
    ],
)
def test_a_results_folder_that_cannot_be_made_is_refused(
    results: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert said in refused(call, "--study", "linear", "--results", results)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_dry_run_counts_images_in_memory_and_names_what_is_not_here(call: Call) -> None:
    own = call(launch.main, "--study", "linear", "--dry-run")
    assert "Target:    997 train, 300 val, 500 test images, 10 classes\n             0: " in own.out
    assert "Source:    4,000 bank, 1,000 val, 5,000 test images, 190 to 191 of a class in the bank" in own.out
    far = call(launch.main, "--study", "linear", "--dry-run", "--target", "dtd")
    assert "Images:    dtd is not here yet" in far.out
    epochs = call(launch.main, "--study", "linear", "--dry-run", "--target", "dtd", "--set", "train.epochs=2")
    assert "trials; how many steps their epochs take is known when dtd is here" in epochs.out
    assert "Source:    4,000 bank" in far.out


def test_dry_run_of_the_papers_table_needs_neither_weights_nor_images(tmp_path: Path, call: Call) -> None:
    for part in ("train", "val"):
        classes(tmp_path / part, names=("n01", "n02"), count=10)
    asked = f"--study paper --benchmark cifar100 --source imagenet1k:{tmp_path} --dry-run --num-workers 1 --slots 1"
    done = call(launch.main, *asked.split())
    assert (done.code, done.err) == (0, "")
    assert re.findall(r"^ +(\S.*?) +(\d[\d,]*) trainable parameters$", done.out, re.MULTILINE) == [
        ("full", "85,875,556"),
        ("top_k k=3", "21,340,516"),
        ("linear budget=1", "76,900"),
        ("linear budget=10", "76,900"),
        ("lora rank=4", "224,356"),
        ("lora rank=8", "371,812"),
        ("lora rank=16", "666,724"),
        ("block_expansion p=1", "7,164,772"),
        ("block_expansion p=2", "14,252,644"),
        ("block_expansion p=3", "21,340,516"),
        ("block_expansion p=4", "28,428,388"),
    ]
    assert "113 trials of 10,000 steps x 128 images or 100,000 steps x 128 images; " in done.out


def test_rows_without_a_trial_are_refused_and_unequal_ones_are_named(tmp_path: Path, call: Call) -> None:
    (tmp_path / "mine.yaml").write_text(LORA)
    done = call(launch.main, "--study", "mine.yaml", "--dry-run", "--trials", "1")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert (
        "trials = 1 leaves some of the 2 rows without one, and such a row cannot be confirmed: set trials=2" in done.err
    )
    done = call(launch.main, "--study", "mine.yaml", "--dry-run", "--trials", "3")
    assert done.code == 0, done.err
    assert "(some rows get 2 of them and some 1: trials_per_row=2 gives each 2)" in done.out
    done = call(launch.main, "--study", "mine.yaml", "--dry-run", "--set", "trials_per_row=2")
    assert "some rows get" not in done.out


def test_dry_run_shows_what_was_overridden(tmp_path: Path, call: Call) -> None:
    (tmp_path / "mine.yaml").write_text(LORA)
    asked = "--study mine.yaml --dry-run --trials 3 --seeds 4 5 --set train.steps=7 --set search.rank.choices=[2]"
    done = call(launch.main, *asked.split())
    assert done.code == 0, done.err
    assert "mine: 3 search trials for the best mean, then 1 row x 2 seeds = 2 confirmations" in done.out
    assert re.search(r"lora rank=2 +6,794 trainable", done.out)
    assert "5 trials of 7 steps x 64 images" in done.out
    assert "           sampler tpe, lag 8: proposal n knows the results of trials 0 to n - 8\n" in done.out


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
        ("--study lora --trials 0", "--trials 0: input should be greater than or equal to 1"),
        ("--study lora --seeds 1 1", "seeds must differ, not [1, 1]"),
        ("--study lora --seeds -1", "-1"),
        ("--study lora --seeds", "--seeds"),
        ("--study lora --num-workers 0", "--num-workers 0: input should be greater than or equal to 1"),
        ("--study lora --set objective=[mean]", "a list must name at least two scores, each once"),
        (
            "--study lora --set objective={maximise:mean}",
            "write a score, a list of scores, or a score under constraints",
        ),
        ("--study lora --set sampler=anneal", "sampler = 'anneal': input should be 'tpe', 'gp'"),
        ("--study paper --trials 4 --set trials_per_row=4", "trials = 4 and trials_per_row = 4 contradict each other"),
        ("--study lora --optuna-storage sqlite:////nowhere/optuna.db", "--optuna-storage cannot be used: "),
        ("--study lora --slots -1", "--slots -1: input should be greater than or equal to 1"),
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
def test_a_mistake_ends_in_one_sentence(call: Call, arguments: str, said: str) -> None:
    assert said in refused(call, *arguments.split())


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
def test_a_mistake_in_a_file_is_named(tmp_path: Path, call: Call, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert said in refused(call, "--study", "mine.yaml")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_results_that_cannot_be_written_are_refused(tmp_path: Path, call: Call, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refused(call, "--study", "lora", "--results", place)
    assert message.startswith(f"--results {tmp_path / place} cannot be written to: ")


def test_a_leaderboard_is_rebuilt_from_records(
    tmp_path: Path, call: Call, paper_records: Callable[..., list[Record]]
) -> None:
    for record in paper_records():
        record.write(tmp_path / "records")
    done = call(__main__.main, "leaderboard", ".")
    assert (done.code, done.err) == (0, "")
    assert "paper on tiny, 3 seeds" in done.out
    assert re.search(r"full +614.1 k +95.5 ", done.out)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert sorted(made) == ["index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.md", "pareto.png"]
    assert call(__main__.main, "leaderboard", ".").code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == made


@pytest.mark.parametrize("content", [None, "{}", "{"])
def test_a_folder_without_records_is_refused(tmp_path: Path, call: Call, content: str | None) -> None:
    if content is not None:
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "x.json").write_text(content)
    said = complaint(call(__main__.main, "leaderboard", str(tmp_path)))
    assert ("x.json is not a record" if content else "there are no records") in said


@pytest.mark.parametrize("arguments", [[], ["leaderbord", "x"], ["pretrain", "tinny"], ["leaderboard"]])
def test_bad_commands_of_bench_exit_2(call: Call, arguments: list[str]) -> None:
    done = call(__main__.main, *arguments)
    assert (done.code, done.out) == (2, "")
    assert "error: " in done.err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("slots=foo", "launch: slots = 'foo': input should be a valid integer"),
        ("slots.x=3", "--set slots.x: slots is a value, not a group of fields"),
        ("name=foo", "a study is called after its file: its name cannot be set"),
        ("backbone.=tiny", "a part of the name 'backbone.' is empty"),
    ],
)
def test_what_cannot_be_set_is_said(call: Call, setting: str, said: str) -> None:
    assert said in refused(call, "--study", "lora", "--set", setting)


@pytest.mark.parametrize("main", [launch.main, __main__.main], ids=["launch.py", "bench"])
def test_a_reader_that_has_seen_enough_ends_it_without_a_word(
    main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        asked = ["--list"] if main is launch.main else ["list"]
        assert command.exit_code(lambda: main(asked)) == 141
        print("what is still written is lost", file=closed)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--study", "x" * 5000], "unknown study 'xxx"),
        (["--study", "caf\udce9.yaml"], "caf\\xe9.yaml is not UTF-8"),
        (["--study", "linear", "--benchmark", f"folder:{'x' * 5000}"], "is longer than 200 bytes"),
        (["--study", "linear", "--benchmark", "folder:caf\udce9"], "caf\\xe9 is not UTF-8"),
        (["--study", "linear", "--benchmark", "folder:a\nb"], "holds control characters"),
        (["--study", "linear", "--results", "x" * 300], "cannot be written to: File name too long"),
        (["--study", "linear", "--target", "\x1b[2J"], "the name 'tiny-target-\\x1b[2J' holds control"),
        (["--study", "\x1b[2J"], "unknown study '\\x1b[2J'"),
        (["--study", "linear", "--set", "x" * 10**5], "must have the form name=value"),
        (["\x1b[2J"], "unknown argument "),
    ],
)
def test_strange_names_end_in_one_short_sentence(call: Call, arguments: list[str], said: str) -> None:
    message = refused(call, *arguments)
    assert said in message
    assert message.isprintable()
    assert len(message) < 2100


def test_errors_of_files_are_sentences_too(
    tmp_path: Path, call: Call, paper_records: Callable[..., list[Record]]
) -> None:
    for record in paper_records():
        record.write(tmp_path / "records")
    (tmp_path / "leaderboard.md").mkdir()
    assert "leaderboard.md" in complaint(call(__main__.main, "leaderboard", "."))
