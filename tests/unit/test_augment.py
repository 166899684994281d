"""Batch augmentation: torchvision's distribution, and the same images on any number of workers."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from bench import parallel
from bench.augment import augment, random_boxes, resample
from bench.spec import TrainConfig


def test_boxes_are_distributed_like_torchvisions() -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 200, 200)
    theirs = [RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3]) for _ in range(4000)]
    top, left, height, width = torch.tensor(theirs, dtype=torch.float).div(200).unbind(1)
    ours = random_boxes(4000, (200, 200), 0.08, torch.Generator().manual_seed(0))
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


def test_an_image_is_treated_alike_on_any_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(batch_size=6, crop_min=0.2, flip=True)
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    whole = augment(images, config, seed=1, step=5)
    assert not torch.equal(whole, augment(images, config, seed=1, step=6))
    monkeypatch.setattr(parallel, "world", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        assert torch.equal(augment(images[rank::2], config, seed=1, step=5), whole[rank::2])


def test_off_is_off() -> None:
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    assert augment(images, TrainConfig(batch_size=6), seed=0, step=1) is images
