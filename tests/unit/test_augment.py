"""Batch augmentation: torchvision's distribution, and the same images on any number of workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from bench.spec import TrainConfig
from bench.training.augment import Draws, augment, erase, mix, resample


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random_boxes(
    count: int, smallest: float, *, largest: float = 1.0, size: tuple[int, int] = (64, 64)
) -> torch.Tensor:
    draws = Draws.of(count, smallest, torch.Generator().manual_seed(0), largest=largest)
    return draws.boxes(torch.tensor(size).expand(count, 2))


def test_boxes_of_oblong_images_are_distributed_like_torchvisions() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 100, 300)
    theirs = [RandomResizedCrop.get_params(image, [0.3, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    top, left, height, width = torch.tensor(theirs, dtype=torch.float).unbind(1)
    ours = random_boxes(3000, 0.3, size=(100, 300))
    share = torch.linspace(0.05, 0.95, 10)
    for mine, its in zip(ours.unbind(1), (left / 300, top / 100, width / 300, height / 100), strict=True):
        assert torch.allclose(mine.quantile(share), its.quantile(share), atol=0.03)


def test_boxes_are_distributed_like_torchvisions() -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 200, 200)
    theirs = [RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3]) for _ in range(4000)]
    top, left, height, width = torch.tensor(theirs, dtype=torch.float).div(200).unbind(1)
    ours = random_boxes(4000, 0.08)
    for mine, its in zip(ours.unbind(1), (left, top, width, height), strict=True):
        share = torch.linspace(0.05, 0.95, 10)
        assert torch.allclose(mine.quantile(share), its.quantile(share), atol=0.03)
    area = (ours[:, 2] * ours[:, 3]).quantile(torch.tensor([0.0, 0.5, 1.0]))
    assert area[0] >= 0.08
    assert area[1] == pytest.approx(float((width * height).median()), abs=0.03)


def test_the_whole_box_changes_nothing_and_flips_mirror() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4, 1)
    mirrored = torch.tensor([False, True, False, True])
    found = resample(images, whole, mirrored)
    assert torch.equal(found[0::2], images[0::2])
    assert torch.equal(found[1::2], images[1::2].flip(3))


def test_a_box_is_cut_out_where_it_lies() -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    images[:, :, :8, 8:] = 200  # upper right
    box = torch.tensor([[0.5, 0.0, 0.5, 0.5]])
    found = resample(images, box, torch.tensor([False]))
    assert found[:, :, 2:-2, 2:-2].float().mean() == 200


RECIPES: dict[str, dict[str, Any]] = {
    "crop and flip": {"crop_min": 0.2, "crop_max": 0.6, "flip": True},
    "RandAugment": {"randaugment_n": 2, "randaugment_m": 15},
    "TrivialAugment": {"trivial_augment": True},
    "all": {"crop_min": 0.2, "flip": True, "randaugment_n": 1, "erase_prob": 0.7},
}


def pictures(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def treated(images: torch.Tensor, config: TrainConfig, positions: torch.Tensor, *, step: int = 5) -> torch.Tensor:
    changed = augment(images, config, seed=1, step=step, positions=positions)
    assert changed.dtype == torch.uint8
    return erase(changed / 255, config, seed=1, step=step, positions=positions)


@pytest.mark.parametrize("name", RECIPES)
def test_an_image_is_treated_alike_in_any_part_of_a_batch(name: str) -> None:
    config = TrainConfig(batch_size=6, **RECIPES[name])
    everything = torch.arange(6)
    state = torch.get_rng_state()
    whole = treated(pictures(), config, everything)
    assert not torch.equal(whole, pictures() / 255)
    assert not torch.equal(whole, treated(pictures(), config, everything, step=6))
    for part in (everything[0::2], everything[1::2], everything.flip(0)):
        assert torch.equal(treated(pictures()[part], config, part), whole[part])
    assert torch.equal(torch.get_rng_state(), state)


def test_images_get_parameters_of_their_own() -> None:
    same = pictures(1).repeat(6, 1, 1, 1)
    for name in RECIPES:
        found = treated(same, TrainConfig(batch_size=6, **RECIPES[name]), torch.arange(6))
        assert len({image.numpy().tobytes() for image in found}) > 3, name


def test_crop_max_limits_the_crop() -> None:
    boxes = random_boxes(500, 0.2, largest=0.5)
    area = boxes[:, 2] * boxes[:, 3]
    assert 0.2 <= area.min() < 0.25
    assert 0.45 < area.max() <= 0.5 + 1e-6


def test_erased_rectangles_have_the_mean_colour() -> None:
    images = torch.ones(200, 3, 16, 16)
    found = erase(images, TrainConfig(batch_size=200, erase_prob=0.25), seed=0, step=1, positions=torch.arange(200))
    erased = (found == 0).flatten(1).float().mean(1)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert 0.15 < (erased > 0).float().mean() < 0.35
    assert images.min() == 1


def mixed(**values: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).clone()
    config = TrainConfig(batch_size=4, **values)
    return mix(images, torch.arange(4), config, classes=5, seed=0, step=3)


def test_mixup_blends_partners_and_their_labels() -> None:
    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    images, labels = mixed(mixup_alpha=1.0)
    weight = labels[0, 0].item()
    assert 0 < weight < 1
    assert torch.allclose(labels.sum(1), torch.ones(4))
    assert labels[1].tolist() == pytest.approx([0, weight, 1 - weight, 0, 0], abs=1e-6)
    assert torch.allclose(images[0], torch.full((3, 16, 16), 3 * (1 - weight)))
    assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr]


def test_cutmix_pastes_a_rectangle_of_the_partner() -> None:
    images, labels = mixed(cutmix_alpha=1.0)
    assert set(images[1].unique().tolist()) <= {1.0, 2.0}
    share = (images[1] == 1.0).float().mean().item()
    assert labels[1].tolist() == pytest.approx([0, share, 1 - share, 0, 0], abs=1e-6)


def test_mix_prob_is_the_share_of_mixed_batches() -> None:
    config = TrainConfig(batch_size=2, mixup_alpha=1.0, mix_prob=0.3)
    labels = torch.tensor([0, 1])
    found = [
        mix(torch.zeros(2, 3, 4, 4), labels, config, classes=2, seed=0, step=step)[1][0, 0].item() < 1
        for step in range(300)
    ]
    assert 0.2 < sum(found) / 300 < 0.4


def test_off_is_off() -> None:
    images, plain = pictures(), TrainConfig(batch_size=6)
    assert augment(images, plain, seed=0, step=1, positions=torch.arange(6)) is images
    assert erase(images, plain, seed=0, step=1, positions=torch.arange(6)) is images
