"""What is left of a confirmed trial: it measures the same again, and plain timm computes what it computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench import checkpoints, data, methods
from bench.spec import Trial
from tests.unit.test_trial import make

from .conftest import ROOT, Run


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_confirmed_trial_keeps_its_weights_and_no_more(small: Run) -> None:
    kept = {path.stem for path in (small.folder / "checkpoints").iterdir()}
    assert kept == {name for name, record in small.records.items() if record["phase"] == "confirm"}
    size = (small.folder / "checkpoints" / "block_expansion-confirm-p1-seed0.safetensors").stat().st_size
    assert size < 1.1 * 4 * 50634  # the trainable parameters in float32


def test_evaluation_agrees_with_the_record_to_the_last_digit(small: Run) -> None:
    done = bench("evaluate", small.folder / "records" / "block_expansion-confirm-p2-seed1.json")
    assert done.returncode == 0, done.stderr
    assert "largest deviation from the record: 0 points" in done.stdout
    folder = small.folder / "evaluation" / "block_expansion-confirm-p2-seed1"
    assert (folder / "confusion.png").stat().st_size > 1000
    lines = (folder / "per_class.csv").read_text().splitlines()
    assert len(lines) == 11
    assert sum(int(line.split(",")[1]) for line in lines[1:]) == 500


def test_an_export_is_loaded_by_timm_alone_and_predicts(small: Run, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    done = bench("export", small.folder / "records" / "block_expansion-confirm-p2-seed0.json", "--out", model)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()[-3:]
    check = "import sys; assert 'bench' not in sys.modules; print(len(model.blocks))"
    loaded = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, check])], cwd=tmp_path, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "14", loaded.stderr
    picture = tmp_path / "ein Bild mit Ümlaut.png"
    test = data.target("digits").test
    Image.fromarray(test.take(torch.arange(1))[0].permute(1, 2, 0).numpy()).save(picture)
    found = bench("predict", model, picture)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("class") == 5


@pytest.mark.parametrize("method", methods.names())
def test_the_exported_model_equals_the_trained_one(method: str, tmp_path: Path) -> None:
    from bench import backbones, records, trial

    torch.set_num_threads(1)
    spec = make(method, phase="confirm", steps=3)
    kept: list[dict[str, torch.Tensor]] = []
    record = trial.run(spec, keep=lambda tensors: kept.append(dict(tensors)))
    path = record.write(tmp_path / "records")
    save(kept[0], records.weights_of(path))
    checkpoints.export(path, tmp_path / "model.safetensors")
    exported, _ = checkpoints._load_export(tmp_path / "model.safetensors")
    trained = trial.restore(Trial.model_validate_json(json.dumps(record.config)), kept[0], torch.device("cpu"))
    images = backbones.preprocess(backbones.TINY)(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
    with torch.inference_mode():
        assert (exported(images) - trained(images)).abs().max() < 1e-4 * trained(images).abs().max()


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True)
    save_file(tensors, path)


def test_what_cannot_be_done_is_said(small: Run, tmp_path: Path) -> None:
    for arguments, words in (
        (["evaluate", tmp_path / "no.json"], "there is no record"),
        (["evaluate", small.folder / "records" / "block_expansion-search-00.json"], "only confirmed trials"),
        (["predict", tmp_path / "no.safetensors", "x.png"], "there is no model"),
    ):
        done = bench(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
