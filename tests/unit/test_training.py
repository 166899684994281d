"""The training loop: batches, schedule, reports, divergence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from bench import backbones, parallel, training
from bench.backbones import Preprocess
from bench.data import Images
from bench.spec import SpecError, TrainConfig

CPU = torch.device("cpu")
PLAIN = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def images(count: int = 50) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 4)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def fit(config: TrainConfig) -> list[Mapping[str, float]]:
    return fitted(config, model())


def fitted(config: TrainConfig, net: nn.Module) -> list[Mapping[str, float]]:
    reports: list[Mapping[str, float]] = []
    training.train(net, images(), PLAIN, config, classes=4, seed=0, device=CPU, report=reports.append)
    return reports


def recipe(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate({"steps": 5, "batch_size": 24, "lr": 0.01, **values})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_parts_share_out_a_global_batch(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(batch_size=12, accumulate=accumulate)
    monkeypatch.setattr(parallel, "world", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        found += training.shares(config)
    assert {len(part) for part in found} == {4 // accumulate}
    assert torch.equal(torch.cat(found).sort().values, torch.arange(12))


def test_partners_of_a_mixed_batch_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(batch_size=24, accumulate=2, mixup_alpha=1.0)
    monkeypatch.setattr(parallel, "world", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        found += training.shares(config)
    assert torch.equal(torch.cat(found).sort().values, torch.arange(24))
    assert all(torch.equal(part + part.flip(0), torch.full_like(part, 23)) for part in found)
    monkeypatch.setattr(parallel, "world", lambda: 1)
    monkeypatch.setattr(parallel, "rank", lambda: 0)
    (alone,) = training.shares(TrainConfig(batch_size=24, mixup_alpha=1.0))
    assert torch.equal(alone, torch.arange(24))


def test_every_image_comes_once_an_epoch() -> None:
    stream = torch.cat(list(training.batches(50, TrainConfig(steps=20, batch_size=10), seed=0)))
    for epoch in stream.split(50):
        assert torch.equal(epoch.sort().values, torch.arange(50))
    assert not torch.equal(stream[:50], stream[50:100])


def test_batches_larger_than_the_data_set() -> None:
    (batch,) = training.batches(5, TrainConfig(steps=1, batch_size=12), seed=0)
    assert len(batch) == 12
    assert set(batch.tolist()) == set(range(5))


def test_schedule() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, lr=1.0)
    rates = [training.learning_rate(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)
    flat = TrainConfig(steps=100, warmup_steps=10, lr=1.0, schedule="none")
    assert {training.learning_rate(step, flat) for step in range(10, 100)} == {1.0}


def test_reports_cover_the_training_and_end_with_the_last_step() -> None:
    steps = [int(report["step"]) for report in fit(TrainConfig(steps=107, batch_size=8, lr=0.01))]
    assert steps[-1] == 107
    assert len(steps) >= training.REPORTS
    long = training._Losses(TrainConfig(steps=100_000))
    assert long.every == training.REPORT_STEPS


def test_the_loss_falls() -> None:
    reports = fit(TrainConfig(steps=60, batch_size=25, lr=0.01))
    assert reports[-1]["train_loss"] < 0.5 * reports[0]["train_loss"]
    assert reports[-1]["lr"] < reports[0]["lr"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_learns(optimizer: str) -> None:
    config = TrainConfig.model_validate({"steps": 40, "batch_size": 25, "lr": 0.003, "optimizer": optimizer})
    reports = fit(config)
    assert reports[-1]["train_loss"] < reports[0]["train_loss"]


@pytest.mark.parametrize(
    "option",
    [
        {"clip_norm": 0.01},
        {"weight_decay": 0.5},
        {"momentum": 0.0},
        {"label_smoothing": 0.3},
        {"optimizer": "adam"},
        {"schedule": "none"},
        {"warmup_steps": 2},
        {"mixup_alpha": 0.8},
        {"cutmix_alpha": 1.0},
        {"erase_prob": 0.5},
        {"randaugment_n": 2},
        {"trivial_augment": True},
        {"crop_min": 0.3},
        {"flip": True},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_option_reaches_the_step(option: dict[str, Any]) -> None:
    changed = fit(recipe(**option))
    assert changed[-1]["train_loss"] != fit(recipe())[-1]["train_loss"]
    assert changed == fit(recipe(**option))


def test_betas_reach_the_optimizer() -> None:
    for optimizer in ("adam", "adamw"):
        made = training.make_optimizer(model(), recipe(optimizer=optimizer, beta1=0.8, beta2=0.95))
        assert made.defaults["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("more", [{}, {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "erase_prob": 0.5, "clip_norm": 1.0}])
def test_accumulation_changes_nothing(more: dict[str, Any]) -> None:
    whole, parts = model(), model()
    one, four = fitted(recipe(**more), whole), fitted(recipe(accumulate=4, **more), parts)
    assert [report["train_loss"] for report in four] == pytest.approx([r["train_loss"] for r in one], rel=1e-5)
    for expected, found in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_clipping_limits_the_gradient_whatever_the_precision() -> None:
    for precision in ("fp32", "fp16"):
        net = model()
        before = [parameter.detach().clone() for parameter in net.parameters()]
        fitted(recipe(steps=1, lr=1.0, clip_norm=0.01, precision=precision), net)
        moved = torch.cat([(new - old).flatten() for new, old in zip(net.parameters(), before, strict=True)])
        assert moved.norm().item() == pytest.approx(0.01, rel=1e-2)


def test_fp16_is_close_to_fp32() -> None:
    half, full = fit(recipe(precision="fp16")), fit(recipe())
    assert half[-1]["train_loss"] == pytest.approx(full[-1]["train_loss"], rel=1e-2)


def test_a_step_that_overflows_is_skipped_and_counted() -> None:
    net = nn.Sequential(model(), Steep(1e3))
    config = recipe(steps=20, lr=1e-6, precision="fp16")
    found = training.train(net, images(), PLAIN, config, classes=4, seed=0, device=CPU, report=lambda metrics: None)
    assert 0 < found.skipped < 20


def test_a_scale_that_collapses_is_divergence() -> None:
    with pytest.raises(training.DivergedError, match="fp16 cannot hold the gradients at any scale; a lower lr or"):
        fitted(recipe(steps=30, precision="fp16"), nn.Sequential(model(), Steep(1e30)))


class Steep(nn.Module):
    """The identity, with a gradient that is ``slope`` times too large."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.slope - 1) * (x - x.detach())


def test_epochs_become_steps() -> None:
    config = training.resolve(TrainConfig(epochs=1.5, batch_size=8), images=50)
    assert (config.steps, config.epochs) == (10, None)
    assert training.resolve(config, images=99) is config
    with pytest.raises(SpecError, match="epochs = 1 of 50 images: warmup_steps = 10 leaves nothing of steps = 7"):
        training.resolve(TrainConfig(epochs=1, batch_size=8, warmup_steps=10), images=50)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 exists on CUDA only")
def test_tf32_is_allowed_during_the_step_only() -> None:
    matmul = torch.backends.cuda.matmul
    with training._tensor_cores(torch.device("cuda"), allowed=not matmul.allow_tf32):
        inside = matmul.allow_tf32
    assert matmul.allow_tf32 is not inside


def test_divergence_is_an_error_with_advice() -> None:
    with pytest.raises(training.DivergedError, match=r"loss is (nan|inf).* lower lr"):
        fit(TrainConfig(steps=50, batch_size=25, lr=1e38))


def test_validation_every_few_steps_but_not_after_the_last() -> None:
    reports: list[Mapping[str, float]] = []
    config = TrainConfig(steps=12, batch_size=8, lr=0.01, val_every=4)
    training.train(
        model(),
        images(),
        PLAIN,
        config,
        classes=4,
        seed=0,
        device=CPU,
        report=reports.append,
        validate=lambda: {"val_x": 1.0},
    )
    assert [report["step"] for report in reports if "val_x" in report] == [4, 8]


def test_the_same_seed_gives_the_same_losses() -> None:
    config = TrainConfig(steps=10, batch_size=8, lr=0.01)
    assert fit(config) == fit(config)


def test_head_norm_is_a_batch_norm_without_parameters() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, torchs = backbones.HeadNorm(6), nn.BatchNorm1d(6, affine=False)
    for _ in range(3):
        x = 3 * torch.randn(16, 6, generator=generator) + 1
        assert torch.allclose(ours(x), torchs(x), atol=1e-5)
    assert torch.allclose(ours.mean, torchs.running_mean, atol=1e-5)
    assert not list(ours.parameters())


def test_a_compiled_step_trains_the_same() -> None:
    """With a backend that needs no compiler: that the step goes through torch.compile is what is tested."""
    plain, compiled = model(), model()
    compiled.load_state_dict(plain.state_dict())
    config = recipe(steps=4)
    losses = [
        [report["train_loss"] for report in fitted(config, net)]
        for net in (plain, torch.compile(compiled, backend="eager"))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_auto_is_fp32_on_a_cpu_and_bf16_on_a_gpu() -> None:
    from bench.backbones import precision_on

    assert precision_on(CPU, "auto") == "fp32"
    assert precision_on(torch.device("cuda"), "auto") == "bf16"
    assert precision_on(torch.device("cuda"), "fp32") == "fp32"
