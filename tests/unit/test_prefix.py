"""Frozen blocks that are computed once: the same training, less work, and what cannot be kept is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from bench import backbones, benchmarks, data, methods, prefix, studies, trial
from bench.spec import SpecError, TrainConfig, make_trial

CPU = torch.device("cpu")
FROZEN = {"linear": 12, "top_k": 9, "block_expansion": 4}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    prefix._kept.clear()


def model(method: str) -> Any:
    torch.manual_seed(0)
    vit = backbones.create(backbones.TINY, num_classes=10)
    return methods.load(method).apply(vit)


def make(method: str, *, seed: int = 0, **train: Any) -> Any:
    overrides = [f"train.{name}={value}" for name, value in {"steps": 8, **train}.items()]
    (study,) = studies.load(method, overrides=overrides).studies
    values = {name: space.corners[-2] for name, space in study.search.items()} | {"lr": 0.05}
    small = benchmarks.adapted(benchmarks.get("tiny"), {"source.per_class": 20, "source.queries": 5})
    return make_trial(study, small, values, launch="t", label="x", seed=seed, phase="search")


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
    usual, shared = ([], [])
    records = [
        trial.run(make(method, views=views), lambda metrics, to=to: to.append(metrics["train_loss"]))
        for views, to in (("", usual), (1, shared))
    ]
    assert shared == pytest.approx(usual, rel=1e-5)
    assert records[1].details["frozen_blocks"] == FROZEN[method]
    assert records[1].config["train"]["views"] == 1
    assert records[1].val_source_accuracy == pytest.approx(records[0].val_source_accuracy, abs=2)


def test_views_differ_and_are_shared_by_trials_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    compute = prefix._compute
    monkeypatch.setattr(prefix, "_compute", lambda *args: found.append(compute(*args)) or found[-1])
    augmented = {"views": 2, "crop_min": 0.3, "flip": "true"}
    first = trial.run(make("linear", **augmented))
    trial.run(make("linear", seed=1, **augmented))
    assert trial.run(make("linear", **augmented)).details == first.details
    (activations,) = found
    views = activations.view(2, 997, 64)
    assert (views[0] - views[1]).abs().mean() > 0.01
    trial.run(make("top_k", **augmented))
    trial.run(make("linear", **{**augmented, "views": 3}))
    assert len(found) == 3


def test_a_warm_linear_trial_costs_next_to_nothing() -> None:
    """Ten trials of a linear probe cost no more than two: each but the first less than a ninth of a usual one."""

    def seconds(**train: Any) -> float:
        start = time.perf_counter()
        trial.run(make("linear", **{"steps": 150, **train}))
        return time.perf_counter() - start

    seconds(steps=2)  # what any first trial pays
    usual, first = seconds(), seconds(views=1)
    warm = min(seconds(views=1) for _ in range(4))  # the least disturbed
    assert first + 9 * warm < 2 * usual


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

    def use(method: str) -> None:
        tail = prefix.Tail(model(method))
        prefix.activations(tail, images, backbones.TINY_PREPROCESS, TrainConfig(views=1), key="x", device=CPU)

    for method in ("top_k", "block_expansion", "top_k"):
        use(method)
    assert [kept.key[1] for kept in prefix._kept] == [4, 9]  # type: ignore[index]
    vit = model("full")
    vit.requires_grad_(False)
    vit.blocks[6].requires_grad_(True)
    prefix.activations(prefix.Tail(vit), images, backbones.TINY_PREPROCESS, TrainConfig(views=1), key="x", device=CPU)
    assert [kept.key[1] for kept in prefix._kept] == [9, 6]  # type: ignore[index]


@pytest.mark.parametrize(("method", "said"), [("full", "this method trains"), ("lora", "trains the first one")])
def test_a_method_without_a_frozen_beginning_is_refused(method: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        prefix.Tail(model(method))


def test_other_architectures_are_refused() -> None:
    vit = backbones.plain(backbones.Backbone(name="beit_base_patch16_224"), num_classes=2)
    with pytest.raises(SpecError, match="needs a plain timm VisionTransformer, not a Beit"):
        prefix.Tail(methods.load("linear").apply(vit))
