"""The embedded data and backbone: disjoint splits, frozen by checksum, and as good as their description says."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import data, models, pretrain
from bench.data import Source, Split, Target, digits, shapes
from bench.data._splits import stratified
from bench.measuring import untouched_score
from bench.models import CPU, TINY_PREPROCESS
from bench.models.weights import ASSETS
from bench.spec import Backbone, SpecError

FACTS = json.loads((ASSETS / "tiny.json").read_text())
DRAWN = pytest.mark.xdist_group("shapes")  # where they are drawn once


@pytest.fixture(scope="module")
def written() -> Target:
    """The handwritten digits."""
    return data.target("digits")


@pytest.fixture(scope="module")
def drawn() -> Source:
    """The drawn shapes: 10,000 images."""
    return data.source("shapes")


@pytest.fixture(scope="module")
def known(drawn: Source) -> dict[str, float]:
    """Source accuracy of the embedded backbone on either set of queries; bank features are computed once for both."""
    torch.set_num_threads(1)
    vit = models.create(Backbone(name="tiny"), num_classes=0)
    return {
        split: untouched_score(vit, drawn, getattr(drawn, split), TINY_PREPROCESS, CPU).accuracy
        for split in ("val", "test")
    }


def fingerprints(images: Split) -> set[str]:
    pixels = images.take(torch.arange(len(images)))
    return {hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in pixels}


def test_digits_splits_are_disjoint_and_complete(written: Target) -> None:
    parts = [written.train, written.val, written.test]
    assert [len(part) for part in parts] == [997, 300, 500]
    assert all(set(part.labels.tolist()) == set(range(10)) for part in parts)
    prints = [fingerprints(part) for part in parts]
    assert len(prints[0] | prints[1] | prints[2]) == sum(map(len, prints)) == 1797


def test_digits_are_scikit_learns_which_is_not_imported_for_them() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    scans, labels = digits._scans()
    assert np.array_equal(scans, theirs.images)
    assert np.array_equal(labels, theirs.target)
    code = "import sys; from bench.data import digits; digits.target(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("files", [None, []])
def test_without_scikit_learns_file_there_are_no_digits(
    files: list[Path] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits.metadata, "files", lambda name: files)
    with pytest.raises(SpecError, match="install scikit-learn again"):
        digits.target()


@DRAWN
def test_shapes_splits_are_disjoint(drawn: Source) -> None:
    prints = [fingerprints(part) for part in (drawn.bank, drawn.val, drawn.test)]
    assert [len(p) for p in prints] == [4000, 1000, 5000]
    assert len(prints[0] | prints[1] | prints[2]) == 10_000


def test_shapes_are_frozen() -> None:
    assert pretrain.shapes_checksum() == FACTS["shapes_sha256"]
    first, second = shapes.generate(count=50, seed=4), shapes.generate(count=50, seed=4)
    assert np.array_equal(first[0], second[0])
    assert not np.array_equal(first[0], shapes.generate(count=50, seed=5)[0])


def test_shapes_classes_are_balanced() -> None:
    _, labels = shapes.generate(count=210, seed=0)
    assert np.bincount(labels).tolist() == [10] * 21
    assert len(shapes.CLASS_NAMES) == 21


def test_stratified_parts_are_exact_disjoint_and_proportional() -> None:
    labels = np.repeat(np.arange(4), [100, 200, 300, 10])
    parts = stratified(labels, [61, 122, 400], seed=0)
    assert [len(part) for part in parts] == [61, 122, 400]
    assert len(set(np.concatenate(parts))) == 583
    for part in parts:
        share = np.bincount(labels[part], minlength=4) / len(part)
        assert share == pytest.approx(np.bincount(labels) / len(labels), abs=0.03)
        assert len(set(labels[part])) == 4
    assert all(np.array_equal(a, b) for a, b in zip(parts, stratified(labels, [61, 122, 400], seed=0), strict=True))


def test_stratified_refuses_too_much() -> None:
    with pytest.raises(ValueError, match="cannot take 11 of 10"):
        stratified(np.zeros(10, dtype=np.int64), [6, 5], seed=0)


def test_unknown_data_sets_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        data.target("digit")
    with pytest.raises(ValueError, match="cannot be a target"):
        data.target("shapes")


@pytest.mark.usefixtures("written")
def test_every_target_can_be_a_source() -> None:
    domain = data.source("digits", per_class=7, queries=3)
    assert torch.bincount(domain.bank.labels).tolist() == [7] * 10
    for queries in (domain.val, domain.test):
        assert torch.bincount(queries.labels).tolist() == [3] * 10
    assert not fingerprints(domain.bank) & fingerprints(domain.val)


def test_a_budget_of_labelled_images_is_divided_four_to_one(written: Target) -> None:
    full, few = written, data.target("digits", samples=100)
    assert [len(part) for part in (few.train, few.val, few.test)] == [80, 20, 500]
    assert torch.bincount(few.train.labels).tolist() == [8] * 10
    assert fingerprints(few.train) <= fingerprints(full.train)
    assert fingerprints(few.val) <= fingerprints(full.val)
    with pytest.raises(SpecError, match=r"needs 1600 train images, and digits has 997"):
        data.target("digits", samples=2000)
    with pytest.raises(SpecError, match=r"leaves 6 of digits's 10 classes without a training image"):
        data.target("digits", samples=5)


def test_the_backbone_file_is_the_described_one() -> None:
    weights = ASSETS / "tiny.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == FACTS["weights_sha256"]
    assert weights.stat().st_size <= 3 * 2**20
    assert FACTS["command"] == "python -m bench pretrain tiny"


@DRAWN
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_backbone_knows_its_source_as_well_as_described(known: dict[str, float], split: str) -> None:
    assert known[split] == pytest.approx(FACTS["knn"][split], abs=0.5)
    assert known[split] >= 85


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A source of some 300 images: with all of them it takes seconds to draw and to measure."""
    counts = {"pretrain": 64, "bank": 210, "val": 42, "test": 42}
    monkeypatch.setattr(shapes, "SPLITS", {name: (counts[name], seed) for name, (_, seed) in shapes.SPLITS.items()})
    monkeypatch.setattr(data, "_build", functools.cache(data._build.__wrapped__))
    data.source.cache_clear()
    yield
    data.source.cache_clear()


@pytest.mark.usefixtures("few_images")
def test_pretraining_runs_and_describes_itself(tmp_path: Path) -> None:
    facts = pretrain.pretrain_tiny(out=tmp_path, recipe=pretrain.Recipe(steps=2, batch_size=8))
    assert json.loads((tmp_path / "tiny.json").read_text()) == facts
    written = hashlib.sha256((tmp_path / "tiny.safetensors").read_bytes()).hexdigest()
    assert written == facts["weights_sha256"]
    assert facts["recipe"]["steps"] == 2
    assert set(facts["knn"]) == set(FACTS["knn"])
    assert facts["shapes_sha256"] == FACTS["shapes_sha256"]


def test_info_nce_prefers_partners() -> None:
    z = torch.eye(4).repeat(2, 1)
    apart = pretrain.info_nce(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), temperature=0.2)
    assert pretrain.info_nce(z, temperature=0.2) < apart


def test_large_splits_are_held_once_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(data, "SHARED_BYTES", 1000)
    data.target.cache_clear()
    plain = digits.target()
    for _ in range(2):  # written, then found
        found = data.target("digits")
        data.target.cache_clear()
        for part in ("train", "val", "test"):
            assert torch.equal(getattr(found, part).images, getattr(plain, part).images)
    assert len(list((tmp_path / "shared").iterdir())) == 3
