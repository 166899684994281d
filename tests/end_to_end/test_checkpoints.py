"""What is left of a confirmed trial: it measures the same again, and plain timm computes what it computed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bench import checkpoints, data, methods, models, records, training, trial
from bench.__main__ import main
from bench.folder import LaunchFolder
from bench.models import Setting
from bench.readings import Reading
from bench.spec import Backbone, Trial
from tests.unit.test_trial import make

from .conftest import ROOT, Run

# The time includes the study, whichever test is the first to need it.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("small")]


@dataclass(frozen=True)
class Done:
    """A finished command."""

    returncode: int
    stdout: str
    stderr: str


Bench = Callable[..., Done]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Run ``python -m bench`` in this process."""

    def run(*arguments: str | Path, folder: Path = ROOT) -> Done:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def python(lines: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run lines in a fresh interpreter that cannot import this package."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_confirmed_trial_keeps_its_weights_and_no_more(small: Run) -> None:
    kept = {path.stem for path in (small.folder / "checkpoints").iterdir()}
    assert kept == {name for name, record in small.records.items() if record["phase"] == "confirm"}
    size = (small.folder / "checkpoints" / "block_expansion-confirm-p1-seed0.safetensors").stat().st_size
    assert size < 1.1 * 4 * 50634  # the trainable parameters in float32


def test_evaluation_agrees_with_the_record_to_the_last_digit(small: Run, bench: Bench) -> None:
    done = bench("evaluate", small.folder / "records" / "block_expansion-confirm-p2-seed1.json")
    assert done.returncode == 0, done.stderr
    assert "largest deviation from the record: 0 points, measured on cpu" in done.stdout
    shown = ["target_accuracy", "source_accuracy", "target test head top5", "source test knn k=20 top1"]
    for name in (*shown, "source test knn before k=200 top5"):
        assert re.search(rf"^{name} +(\S+) +\1$", done.stdout, re.M), name
    folder = small.folder / "evaluation" / "block_expansion-confirm-p2-seed1"
    assert (folder / "confusion.png").stat().st_size > 1000
    lines = (folder / "per_class.csv").read_text().splitlines()
    assert len(lines) == 11
    assert lines[0] == "class,name,images,accuracy"
    assert [line.split(",")[1] for line in lines[1:]] == [str(digit) for digit in range(10)]
    assert sum(int(line.split(",")[2]) for line in lines[1:]) == 500
    right = sum(int(line.split(",")[2]) * float(line.split(",")[3]) for line in lines[1:])
    accuracy = small.records["block_expansion-confirm-p2-seed1"]["target_accuracy"]
    assert right / 500 == pytest.approx(accuracy)


@pytest.mark.slow
def test_an_evaluation_that_deviates_is_an_error(small: Run, bench: Bench, tmp_path: Path) -> None:
    trial = "block_expansion-confirm-p1-seed0"
    shutil.copytree(small.folder / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "records").mkdir()
    path = tmp_path / "records" / f"{trial}.json"
    changed = small.records[trial]
    (reading,) = (r for r in changed["readings"] if (r["domain"], r["split"]) == ("source", "test") and r["step"])
    reading["numbers"]["k=10 top5"] -= 0.125
    path.write_text(json.dumps(changed))
    done = bench("evaluate", path)
    assert done.returncode == 1
    assert "largest deviation from the record: 0.125 points" in done.stdout
    assert done.stderr == f"error: {path} says something else, on the same kind of device: see above\n"
    changed["provenance"]["hardware"]["devices"] = ["Some GPU"]
    path.write_text(json.dumps(changed))
    done = bench("evaluate", path, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "another kind of device" in done.stdout


def child(small: Run, trial: str) -> tuple[str, str]:
    """The store of the small study, and the id of a trial's run."""
    import mlflow

    store = f"sqlite:///{small.folder.parents[1] / 'mlflow.db'}"
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("block_expansion")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"run_name = '{trial}'")
    return store, run.info.run_id


def test_an_mlflow_run_is_all_that_is_needed(small: Run, bench: Bench, tmp_path: Path) -> None:
    """The run's own artifacts are measured again, registered, and loaded where this package is not."""
    trial = "block_expansion-confirm-p1-seed1"
    store, run = child(small, trial)
    done = bench("evaluate", run, "--tracking-uri", store, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "largest deviation from the record: 0 points" in done.stdout
    place = tmp_path / "results" / "runs" / run
    assert (place / "evaluation" / trial / "per_class.csv").is_file()
    kept = small.folder / "checkpoints" / f"{trial}.safetensors"
    assert (place / "checkpoints" / kept.name).read_bytes() == kept.read_bytes()
    where = ["--tracking-uri", store, "--out", "m.safetensors", "--mlflow-model", "digits of mine"]
    done = bench("export", run, *where, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()[-3:]
    assert lines[-1] == "model = mlflow.pytorch.load_model('models:/digits of mine/1')"
    rows = json.loads((small.folder / "leaderboard.json").read_text())["rows"]
    best = next(row["trials"] for row in rows if row["best"])
    assert f"({'@block_expansion-p1' + ', @champion' * (trial in best)})" in done.stdout
    exported, preprocess, _ = checkpoints._load_export(tmp_path / "m.safetensors")
    images = preprocess(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    torch.save(images, tmp_path / "images.pt")
    loaded = python([*lines, DESCRIBE], tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    described = json.loads(loaded.stdout.splitlines()[-1])
    assert described["inputs"] == [-1, 3, 32, 32]
    assert described["example"] == [2, 3, 32, 32]
    assert json.loads(described["facts"]["preprocess"])["mean"] == [0.5, 0.5, 0.5]
    assert json.loads(described["facts"]["class_names"]) == [str(digit) for digit in range(10)]
    with torch.inference_mode():
        expected = exported(images)
        assert (torch.load(tmp_path / "logits.pt") - expected).abs().max() < 1e-5 * expected.abs().max()


DESCRIBE = """
import json, sys, torch
torch.save(model(torch.load("images.pt")), "logits.pt")
assert not {"bench", "timm", "peft"} & set(sys.modules)
found = mlflow.pyfunc.load_model("models:/digits of mine/1")
inputs, example = found.metadata.signature.inputs.inputs[0].shape, found.input_example
print(json.dumps({"inputs": list(inputs), "example": list(example.shape), "facts": found.metadata.metadata}))
"""


def test_an_export_is_loaded_by_timm_alone_and_predicts(small: Run, bench: Bench, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    done = bench("export", small.folder / "records" / "block_expansion-confirm-p2-seed0.json", "--out", model)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()[-3:]
    check = "import sys; assert 'bench' not in sys.modules; print(len(model.blocks))"
    loaded = python([*lines, check], tmp_path)
    assert loaded.stdout.strip() == "14", loaded.stderr
    picture = tmp_path / "ein Bild mit Ümlaut.png"
    test = data.target("digits").test
    Image.fromarray(test.take(torch.arange(1))[0].permute(1, 2, 0).numpy()).save(picture)
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    shutil.copy(picture, tmp_path / "folder" / "inner" / "b.PNG")
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    found = bench("predict", model, picture, tmp_path / "folder", tmp_path / "*.png")
    assert found.returncode == 0, found.stderr
    assert [line.split(":")[0] for line in found.stdout.splitlines()] == [
        str(picture),
        str(tmp_path / "folder" / "inner" / "b.PNG"),
        str(picture),
    ]
    first = found.stdout.splitlines()[0].split(": ")[1].split(", ")
    assert len(first) == 5
    assert all(re.fullmatch(r"\d \d+\.\d %", one) for one in first)  # the classes of digits are called 0 to 9
    (tmp_path / "folder" / "broken.png").write_bytes(picture.read_bytes()[:60])
    for wrong, words in (("folder/broken.png", "cannot be read as a picture"), ("no*.png", "there is no picture")):
        done = bench("predict", model, tmp_path / wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_predict_sees_pictures_as_the_evaluation_did(small: Run, bench: Bench, tmp_path: Path) -> None:
    """The test digits, written to files, get the very classes that made the record's accuracy."""
    trial = "block_expansion-confirm-p2-seed0"
    model, test = tmp_path / "model.safetensors", data.target("digits").test
    assert bench("export", small.folder / "records" / f"{trial}.json", "--out", model).returncode == 0
    for index, image in enumerate(test.take(torch.arange(len(test)))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index:03d}.png")
    best = [prediction.classes[0] for prediction in checkpoints.predict(model, [tmp_path])]
    right = sum(name == str(label) for name, label in zip(best, test.labels.tolist(), strict=True))
    assert 100 * right / len(test) == pytest.approx(small.records[trial]["target_accuracy"])


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A small timm backbone whose weights lie in a file of DINO's layout."""
    backbone = Backbone(name="vit_tiny_patch16_224", image_size=32)
    torch.manual_seed(5)
    vit = models.plain(backbone, num_classes=0)
    path = tmp_path_factory.mktemp("weights") / "dino.pth"
    torch.save({"teacher": {f"backbone.{key}": value for key, value in vit.state_dict().items()}}, path)
    return backbone.model_copy(update={"weights": str(path)})


@pytest.mark.slow
def test_the_exported_model_equals_the_trained_one(dino: Backbone, tmp_path: Path) -> None:
    """The printed lines are run where this package cannot be imported, one method's after another's."""
    torch.set_num_threads(1)
    expected, inputs, script = {}, {}, ["logits = {}", "images = safetensors.torch.load_file('images.safetensors')"]
    for name, backbone in (("tiny", models.TINY), ("dino", dino)):
        inputs[name] = models.preprocess(backbone)(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
        for method in ("full", "lora", "block_expansion"):  # what is merged is the contract tests' to prove, for all
            spec = make(method, phase="confirm", steps=3)
            spec = spec.model_copy(update={"benchmark": spec.benchmark.model_copy(update={"backbone": backbone})})
            trained, path = train(spec, tmp_path / name / method)
            lines = checkpoints.export(checkpoints.merge(path), tmp_path / name / method / "model.safetensors")
            assert len(lines) == 3
            script += [*lines, f"logits['{name} {method}'] = model(images['{name}']).detach()"]
            with torch.inference_mode():
                expected[f"{name} {method}"] = trained(inputs[name])
    save_file(inputs, tmp_path / "images.safetensors")
    script += ["safetensors.torch.save_file(logits, 'logits.safetensors')", "import sys"]
    script += ["assert not {'bench', 'peft', 'ray', 'mlflow'} & set(sys.modules)"]
    done = python(["import safetensors.torch", *script], tmp_path)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "logits.safetensors")
    assert set(found) == set(expected)
    for which, logits in found.items():
        assert (logits - expected[which]).abs().max() < 1e-5 * expected[which].abs().max(), which


def train(spec: Trial, folder: Path) -> tuple[Any, Path]:
    """A few steps of a confirmation as the loop does them, its readings left out; returns model and record."""
    trial.seed_everything(spec.seed)
    setting = Setting.of(spec, models.CPU)
    vit = models.build(spec, setting.target.num_classes)
    config = training.resolve(spec.train, images=len(setting.target.train))
    feed = training.Feed(setting.target.train, setting.preprocess, setting.target.num_classes)
    terms = training.terms_of(methods.load(spec.method, **spec.fields), vit, lambda: untouched(spec))
    watch = training.Watch(trial.ignore)
    training.train(vit, feed, config, seed=spec.seed, device=models.CPU, watch=watch, terms=terms)
    place = LaunchFolder(folder)
    record = records.of(spec, status="ok", steps=config.steps, readings=readings(config.steps))
    place.checkpoint(record.trial).parent.mkdir(parents=True)
    save_file(models.kept_tensors(spec, vit), place.checkpoint(record.trial))
    return vit.eval(), record.write(place.records)


def untouched(spec: Trial) -> Any:
    return models.untouched(spec.benchmark.backbone, models.CPU)


def readings(steps: int) -> list[Reading]:
    """What a record needs; nothing was measured."""
    kinds = ((0, "source", "knn"), (steps, "source", "knn"), (steps, "target", "head"))
    return [
        Reading(step=step, split="test", domain=domain, probe=probe, n=None, numbers={"top1": 0.0})  # type: ignore[arg-type]
        for step, domain, probe in kinds
    ]


def test_what_cannot_be_done_is_said(small: Run, bench: Bench, tmp_path: Path) -> None:
    import mlflow

    store, searched = child(small, "block_expansion-search-00")
    _, confirmed = child(small, "block_expansion-confirm-p1-seed0")
    confirmed_record = small.folder / "records" / "block_expansion-confirm-p1-seed0.json"
    parent = mlflow.MlflowClient(store).get_run(searched).data.tags["mlflow.parentRunId"]
    for arguments, words in (
        (["evaluate", tmp_path / "no.json"], "there is no record"),
        (["evaluate", small.folder / "records" / "block_expansion-search-00.json"], "only confirmed trials"),
        (["predict", tmp_path / "no.safetensors", "x.png"], "there is no model"),
        (["export", tmp_path / "no.json"], "say where to"),
        (["export", confirmed_record, "--out", tmp_path], "cannot be written to"),
        (["evaluate", "0" * 32, "--tracking-uri", store], f"there is no run {'0' * 32} in {store}"),
        (["evaluate", parent, "--tracking-uri", store], "holds no record"),
        (["evaluate", searched, "--tracking-uri", store], "only confirmed trials"),
        (["evaluate", searched, "--tracking-uri", f"sqlite:///{tmp_path}/no.db"], "there is no MLflow store"),
        (["export", confirmed, "--tracking-uri", store, "--mlflow-model", "a/b"], "leave out '/' and ':'"),
    ):
        done = bench(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_launch_is_packed_and_measured_again_elsewhere(small: Run, bench: Bench, tmp_path: Path) -> None:
    packed = bench("pack", small.folder, "--checkpoints", folder=tmp_path)
    assert (packed.returncode, packed.stderr) == (0, "")
    shutil.move(tmp_path / "block_expansion-tiny.tar.gz", tmp_path / "theirs.tar.gz")
    done = bench("unpack", "theirs.tar.gz", "--evaluate", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "leaderboard: rebuilt from the records, the same byte for byte" in done.stdout
    kept = sorted(path.stem for path in small.folder.glob("checkpoints/*.safetensors"))
    assert len(kept) == 4
    assert done.stdout.count("largest deviation from the record: 0 points") == len(kept)
    assert all(f"\n{trial}\n" in done.stdout for trial in kept)
