"""Benchmarks changed for one launch: fields, names, and what belongs to a backbone that is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.launching import benchmarks
from bench.spec import SpecError

TINY = benchmarks.get("tiny")


def test_nothing_changes_without_changes() -> None:
    assert benchmarks.adapted(TINY, {}) == TINY


def test_sizes_of_a_reading_keep_the_name() -> None:
    found = benchmarks.adapted(TINY, {"source.per_class": 50, "source.queries": 5})
    assert found.name == "tiny"
    assert found.source.size("search") == (50, 5)
    assert found.source.size("confirm") == (None, None)


def test_what_makes_results_incomparable_is_in_the_name() -> None:
    changes = {"target.samples": 100, "source": "digits", "backbone.image_size": 64}
    assert benchmarks.adapted(TINY, changes).name == "tiny-source-digits-samples-100-64px"
    other = benchmarks.adapted(TINY, {"backbone.name": "vit_tiny_patch16_224", "backbone.weights": "w/dino.pth"})
    assert other.name == "tiny-backbone-vit_tiny_patch16_224-dino"
    assert other.backbone.weights == str(Path("w/dino.pth").absolute())


def test_a_source_that_only_says_where_it_lies_keeps_the_name() -> None:
    found = benchmarks.adapted(benchmarks.get("cifar100"), {"source.name": "imagenet1k:data"})
    assert (found.name, found.source.name) == ("cifar100", f"imagenet1k:{Path('data').absolute()}")
    assert found.source.per_class == 50


def test_another_backbone_takes_neither_weights_nor_head_norm_along() -> None:
    own = benchmarks.adapted(TINY, {"backbone.weights": "random"})
    assert own.head_norm
    other = benchmarks.adapted(own, {"backbone": "vit_tiny_patch16_224"})
    assert (other.backbone.weights, other.head_norm) == (None, False)


def test_a_folder_is_a_benchmark() -> None:
    found = benchmarks.get("folder:/data/birds")
    assert (found.name, found.target.name) == ("folder-birds", "folder:/data/birds")
    assert found.train == benchmarks.PAPER


@pytest.mark.parametrize(
    "changes", [{"source.nam": "x"}, {"target.samples": 0}, {"head_norm": "yes"}, {"head_norm.x": 1}]
)
def test_mistakes(changes: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="benchmark 'tiny'"):
        benchmarks.adapted(TINY, changes)
