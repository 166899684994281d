"""The drawn source domain: what its splits, labels and pixels promise (its checksum: test_data.py)."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from bench.data import Images, shapes


def test_the_splits_are_the_agreed_ones() -> None:
    measured = {"bank": (4000, 1), "val": (1000, 2), "test": (5000, 3)}
    assert dict(shapes.SPLITS) == {"pretrain": (8000, 0), **measured}
    images, labels = shapes.split("val")
    again, same = shapes.generate(count=1000, seed=2)
    assert np.array_equal(images, again)
    assert np.array_equal(labels, same)


def test_a_split_is_drawn_when_it_is_first_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def split(name: str) -> tuple[np.ndarray, np.ndarray]:
        asked.append(name)
        return shapes.generate(count=42, seed=7)

    monkeypatch.setattr(shapes, "split", split)
    source = shapes.source()
    assert [len(part) for part in (source.bank, source.val, source.test)] == [4000, 1000, 5000]
    assert asked == []
    images, labels = shapes.generate(count=42, seed=7)
    few = np.array([5, 3])
    assert source.val.take(torch.from_numpy(few)).numpy().tobytes() == images[few].tobytes()
    assert source.val.labels.tolist() == labels.tolist()
    assert source.val.select(few).labels.tolist() == labels[few].tolist()
    whole = Images(torch.from_numpy(images), torch.from_numpy(labels))
    assert (source.val.fingerprint(), source.val.identity()) == (whole.fingerprint(), whole.identity())
    assert asked == ["val"]


def test_different_seeds_share_no_image() -> None:
    """Pre-training images included: what the backbone was trained on is never asked for."""
    drawn = [shapes.generate(count=250, seed=seed)[0] for _, seed in shapes.SPLITS.values()]
    prints = [{image.tobytes() for image in images} for images in drawn]
    assert [len(part) for part in prints] == [250] * 4
    assert all(not first & second for first, second in itertools.combinations(prints, 2))


@pytest.mark.parametrize("count", [1, 20, 21, 100])
def test_labels_are_a_permutation_of_the_classes_in_turn(count: int) -> None:
    images, labels = shapes.generate(count=count, seed=7)
    assert images.shape == (count, 3, 32, 32)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert sorted(labels) == sorted(i % shapes.NUM_CLASSES for i in range(count))


def test_labels_come_in_another_order_with_every_seed() -> None:
    first, second = (shapes.generate(count=210, seed=seed)[1] for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(210) % shapes.NUM_CLASSES)


def test_class_names_say_what_is_drawn() -> None:
    """A disk is filled, a frame is hollow; only what is not solid has a pattern."""
    images, labels = shapes.generate(count=840, seed=5)
    grey = images.mean(axis=1)
    centre = grey[:, 14:18, 14:18].mean(axis=(1, 2))
    spread = grey[:, 11:21, 11:21].std(axis=(1, 2))

    def of(name: str) -> np.ndarray:
        return labels == shapes.CLASS_NAMES.index(name)

    assert len(set(shapes.CLASS_NAMES)) == shapes.NUM_CLASSES == 21
    assert centre[of("disk, solid")].mean() > centre[of("frame, solid")].mean() + 50
    for texture in list(shapes.TEXTURES)[1:]:
        assert spread[of(f"disk, {texture}")].mean() > spread[of("disk, solid")].mean() + 10, texture


def test_drawing_needs_no_torch() -> None:
    draw = "from bench.data import shapes; shapes.generate(count=2, seed=0)"
    code = f"import sys; {draw}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
