"""Frozen blocks that are computed once: the same training, less work, and what cannot be kept is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.layers.patch_embed import PatchEmbed
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from bench import data, methods, models, trial
from bench.launching import benchmarks, studies
from bench.models import CPU
from bench.records import Record
from bench.spec import Backbone, SpecError, TrainConfig, Trial, make_trial
from bench.training import prefix
from bench.vit import Vit
from tests.unit.test_trial import small_data

FROZEN = {"linear": 12, "top_k": 9, "block_expansion": 4}


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with small_data():
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    prefix._kept.clear()


def model(method: str) -> Vit:
    torch.manual_seed(0)
    return methods.load(method).apply(models.create(models.TINY, num_classes=10))


def make(method: str, *, lr: float = 0.05, seed: int = 0, samples: int = 200, **train: Any) -> Trial:
    """A trial on few images: four fifths of ``samples``."""
    overrides = [f"train.{name}={value}" for name, value in {"steps": 4, **train}.items()]
    (study,) = studies.load(method, overrides=overrides).studies
    values = {name: space.corners[-2] for name, space in study.search.items()} | {"lr": lr}
    benchmark = benchmarks.adapted(benchmarks.get("tiny"), {"target.samples": samples})
    return make_trial(study, benchmark, values, launch="t", label="x", seed=seed, phase="search")


def run(spec: Trial) -> tuple[list[float], Record]:
    """Losses of every step, and the record."""
    losses: list[float] = []
    record = trial.run(spec, lambda point: losses.append(point.values["train_loss"]))
    return losses, record


@pytest.mark.parametrize("method", FROZEN)
def test_beginning_and_tail_are_the_model(method: str) -> None:
    vit = model(method).eval()
    tail = prefix.Tail(vit)
    assert tail.depth == FROZEN[method]
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        activations = tail.beginning(images)
        assert activations.shape == (4, *tail.shape())
        assert torch.equal(tail(activations), vit(images))


@pytest.mark.parametrize("method", FROZEN)
def test_one_view_without_augmentation_trains_as_usual(method: str) -> None:
    (usual, without), (shared, record) = (run(make(method, views=views)) for views in ("", 1))
    assert shared == pytest.approx(usual, rel=1e-5)
    assert len(shared) == 4
    assert record.details["frozen_blocks"] == FROZEN[method]
    assert record.config["train"]["views"] == 1
    assert record.scores["source_accuracy"] == pytest.approx(without.scores["source_accuracy"], abs=2)


def test_views_differ_and_are_shared_by_trials_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[torch.Tensor] = []
    compute = prefix._compute

    def computed(*args: Any) -> torch.Tensor:
        found.append(compute(*args))
        return found[-1]

    monkeypatch.setattr(prefix, "_compute", computed)
    augmented = {"views": 2, "crop_min": 0.3, "flip": "true"}
    losses, record = run(make("linear", **augmented))
    run(make("linear", seed=1, **augmented))
    again, its = run(make("linear", **augmented))
    assert (again, its.readings) == (losses, record.readings)
    (activations,) = found
    views = activations.view(2, 160, 64)
    assert (views[0] - views[1]).abs().mean() > 0.01
    run(make("top_k", **augmented))
    run(make("linear", **{**augmented, "views": 3}))
    assert len(found) == 3


def test_frozen_blocks_run_for_the_first_trial_only() -> None:
    """Batches that enter the model: one a step, those of all views once, or those that are measured alone."""

    def passes(**train: Any) -> int:
        count = 0

        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            nonlocal count
            count += isinstance(module, PatchEmbed)

        handle = register_module_forward_hook(hook)
        trial.run(make("linear", **{"steps": 20, **train}))
        handle.remove()
        return count

    passes(steps=1)  # the untouched backbone is measured
    measuring = passes(steps=1) - 1
    assert passes() == measuring + 20
    assert passes(views=3) == measuring + math.ceil(3 * 160 / prefix.BATCH)
    assert passes(views=3) == passes(views=3, lr=0.1, seed=5) == measuring


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tail = prefix.Tail(model("top_k"))
    config = TrainConfig(views=4)
    assert prefix.bytes_needed(tail, config, images=1000, device=CPU) == 4 * 4 * 1000 * 17 * 64
    monkeypatch.setattr(prefix, "free_memory", lambda device: 10 * 2**20)
    with pytest.raises(SpecError, match=r"train.views = 4 of 1,000 images needs 0.0 GiB .* ask for fewer views"):
        prefix.make_room(tail, config, images=1000, device=CPU)


def test_the_least_recently_used_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    images = data.Images(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64))
    size = 100 * 17 * 64 * 4
    held = lambda: sum(kept.activations.nbytes for kept in prefix._kept)  # noqa: E731
    monkeypatch.setattr(prefix, "free_memory", lambda device: int(2.5 * size / prefix.SHARE) - held())

    def use(vit: Vit) -> None:
        tail, config = prefix.Tail(vit), TrainConfig(views=1)
        prefix.activations(tail, images, models.TINY_PREPROCESS, config, key="x", device=CPU)

    for method in ("top_k", "block_expansion", "top_k"):
        use(model(method))
    assert [kept.key[1] for kept in prefix._kept] == [4, 9]  # type: ignore[index]
    vit = model("full").requires_grad_(False)
    vit.blocks[6].requires_grad_(True)
    use(vit)
    assert [kept.key[1] for kept in prefix._kept] == [9, 6]  # type: ignore[index]


@pytest.mark.parametrize(("method", "said"), [("full", "this method trains"), ("lora", "trains the first one")])
def test_a_method_without_a_frozen_beginning_is_refused(method: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        prefix.Tail(model(method))


def test_other_architectures_are_refused() -> None:
    with torch.device("meta"):  # what it is shows without its memory
        vit = models.plain(Backbone(name="beit_base_patch16_224"), num_classes=2)
    with pytest.raises(SpecError, match="needs a plain timm VisionTransformer, not a Beit"):
        prefix.Tail(methods.load("linear").apply(vit))
