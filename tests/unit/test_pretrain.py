"""The embedded backbone's making, and its file read with nothing but timm (its checksum: test_data.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from bench import data, pretrain
from bench.data import shapes
from bench.measuring import knn_accuracy
from bench.models import TINY_ARCHITECTURE
from bench.models.weights import ASSETS

FACTS = json.loads((ASSETS / "tiny.json").read_text())
WEIGHTS = load_file(ASSETS / "tiny.safetensors")


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-training on 64 images: drawing all 8,000 takes seconds."""
    monkeypatch.setattr(shapes, "SPLITS", {**shapes.SPLITS, "pretrain": (64, 0)})


def plain_vit() -> VisionTransformer:
    return VisionTransformer(num_classes=0, **TINY_ARCHITECTURE)


def test_the_file_holds_a_plain_timm_model_in_half_precision() -> None:
    expected = {key: value.shape for key, value in plain_vit().state_dict().items()}
    assert {key: value.shape for key, value in WEIGHTS.items()} == expected
    assert {value.dtype for value in WEIGHTS.values()} == {torch.float16}
    assert FACTS["architecture"] == TINY_ARCHITECTURE


def test_the_description_is_that_of_the_default_recipe() -> None:
    assert pretrain.Recipe(**FACTS["recipe"]) == pretrain.Recipe()
    assert set(FACTS["knn"]) == {"val", "test", "test_untrained", "test_raw_pixels"}
    assert {"torch", "timm", "numpy"} <= set(FACTS["provenance"]["versions"])


@pytest.mark.xdist_group("shapes")  # where they are drawn once
def test_plain_timm_reads_the_described_accuracy() -> None:
    """The published protocol written out, without the harness's own model building and evaluation.

    Of the validation queries; the harness reads both described accuracies in test_data.py.
    """
    torch.set_num_threads(1)
    vit = plain_vit()
    vit.load_state_dict({key: value.float() for key, value in WEIGHTS.items()})
    vit.eval()
    source = data.source("shapes")

    def read(split: data.Split) -> tuple[Tensor, Tensor]:
        pixels = (split.take(torch.arange(len(split))).float() / 255 - 0.5) / 0.5
        with torch.inference_mode():
            features = torch.cat([vit.forward_features(part)[:, 0] for part in pixels.split(500)])
        return features, split.labels

    bank = read(source.bank)
    assert len(bank[0]) == 4000
    top1 = knn_accuracy(*bank, *read(source.val))[20][0]
    assert top1 == pytest.approx(FACTS["knn"]["val"], abs=0.5)
    assert top1 >= 85


@pytest.mark.usefixtures("few_images")
def test_a_seed_gives_the_same_weights_again() -> None:
    def trained(seed: int) -> Tensor:
        vit = pretrain.pretrain(pretrain.Recipe(steps=2, batch_size=8, seed=seed))
        return torch.cat([value.flatten() for value in vit.state_dict().values()])

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


@pytest.mark.usefixtures("few_images")
def test_every_step_passes_the_progress_bar() -> None:
    seen: list[int] = []

    def track() -> Iterator[int]:
        for step in range(3):
            seen.append(step)
            yield step

    pretrain.pretrain(pretrain.Recipe(steps=3, batch_size=8), track=track())
    assert seen == [0, 1, 2]


def test_views_differ_and_keep_their_shape() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    first, second = pretrain.view(images), pretrain.view(images)
    assert first.shape == images.shape
    assert torch.isfinite(first).all()
    assert not torch.equal(first, second)


@pytest.mark.parametrize("steps", [0, -1, 10**12])
def test_steps_that_nobody_means_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps = {steps} must be from 1 to 1,000,000"):
        pretrain.Recipe(steps=steps)


def test_a_folder_that_cannot_be_written_to_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="file/below cannot be written to: Not a directory"):
        pretrain.pretrain_tiny(out=tmp_path / "file" / "below")
