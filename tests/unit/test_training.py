"""The training loop: batches, schedule, reports, divergence."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from bench import backbones, parallel, training
from bench.backbones import Preprocess
from bench.data import Images
from bench.spec import TrainConfig

CPU = torch.device("cpu")
PLAIN = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def images(count: int = 50) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 4)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def fit(config: TrainConfig, *, validate: training.Report | None = None) -> list[Mapping[str, float]]:
    reports: list[Mapping[str, float]] = []
    training.train(model(), images(), PLAIN, config, seed=0, device=CPU, report=reports.append)
    return reports


def test_ranks_share_out_every_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(steps=7, batch_size=12)
    whole = list(training.batches(50, config, seed=3))
    monkeypatch.setattr(parallel, "world", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(list(training.batches(50, config, seed=3)))
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert all(len(part) == 4 for part in parts)
        assert torch.equal(torch.cat(parts).sort().values, batch.sort().values)


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


def test_options_reach_the_step() -> None:
    plain = fit(TrainConfig(steps=5, batch_size=25, lr=0.01))
    for option in ({"clip_norm": 0.01}, {"weight_decay": 0.5}, {"momentum": 0.0}, {"label_smoothing": 0.3}):
        changed = fit(TrainConfig.model_validate({"steps": 5, "batch_size": 25, "lr": 0.01, **option}))
        assert changed[-1]["train_loss"] != plain[-1]["train_loss"], option


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
