"""A trial's setting: pictures in files become what the model learned from, whole or cropped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.launching import benchmarks, studies
from bench.models import CPU, Setting
from bench.spec import Trial, make_trial
from tests.contract.test_folders import classes


def trial(*overrides: str, **changes: str) -> Trial:
    (study,) = studies.load("linear", overrides=overrides).studies
    benchmark = benchmarks.adapted(benchmarks.get("tiny"), {f"{part}.name": name for part, name in changes.items()})
    return make_trial(study, benchmark, {"lr": 0.1}, launch="t", label="x", seed=0, phase="confirm")


@pytest.mark.parametrize("in_files", [False, True])
def test_a_picture_in_a_file_is_what_the_model_learned_from(tmp_path: Path, in_files: bool) -> None:
    """For images in memory the file is taken whole, for picture files the centre is cropped, as their split does it."""
    spec = trial(target=f"folder:{classes(tmp_path / 'pictures')}") if in_files else trial()
    setting = Setting.of(spec, CPU)
    assert setting.preprocess.whole is not in_files
    assert not setting.source_preprocess.whole
    few = torch.arange(3)
    if in_files:
        paths = setting.target.test.paths[:3]  # type: ignore[attr-defined]
    else:
        paths = [tmp_path / f"{index}.png" for index in few.tolist()]
        for path, image in zip(paths, setting.target.test.take(few), strict=True):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    assert torch.equal(setting.preprocess.of_files(paths), setting.preprocess(setting.target.test.take(few)))


def test_the_papers_protocol_squashes_pictures_of_any_shape(tmp_path: Path) -> None:
    """A picture twice as wide as high, whose outer quarters are white, keeps them; the source is cropped as ever."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(10):
            picture = Image.new("RGB", (200, 100), "white")
            picture.paste((0, 0, 0), (50, 0, 150, 100))
            picture.save(tmp_path / name / f"{index}.png")
    target = f"folder:{tmp_path}"
    papers, clean = (Setting.of(trial(*how, target=target), CPU) for how in (["protocol=paper"], []))
    few = torch.arange(2)
    squashed, cropped = (setting.target.test.take(few).float().mean() for setting in (papers, clean))
    assert squashed == pytest.approx(127.5, abs=2)
    assert cropped == 0
    paths = papers.target.test.paths[:2]  # type: ignore[attr-defined]
    assert torch.equal(papers.preprocess.of_files(paths), papers.preprocess(papers.target.test.take(few)))
    assert papers.source_preprocess == clean.source_preprocess == clean.preprocess
