"""A trial from specification to record: splits, endings, and the same numbers wherever it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from bench import benchmarks, evaluation, methods, studies, trial
from bench.data import Images, Source, source
from bench.spec import Trial, make_trial

VOLATILE = {"train_seconds", "eval_seconds", "images_per_second", "provenance"}


@pytest.fixture(autouse=True)
def _small_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the source: what is tested here does not depend on its size."""
    torch.set_num_threads(1)
    monkeypatch.setattr(trial.data, "source", small_source)
    trial._before.cache_clear()


def small_source(name: str, **_: Any) -> Source:
    whole = source(name)
    few = torch.arange(400)
    return Source(*(Images(part.take(few), part.labels[:400]) for part in (whole.bank, whole.val, whole.test)))


def make(method: str, *, steps: int = 4, phase: str = "search", seed: int = 0, **values: Any) -> Trial:
    study = studies.load(method, overrides=[f"train.steps={steps}"]).studies[0]
    chosen = {**{name: space.corners[0] for name, space in study.search.items()}, "lr": 0.05, **values}
    return make_trial(
        study,
        benchmarks.get("tiny"),
        chosen,
        launch="test",
        label="x",
        seed=seed,
        phase=phase,  # type: ignore[arg-type]
    )


def stable(record: Any) -> dict[str, Any]:
    return {key: value for key, value in record.model_dump(mode="json").items() if key not in VOLATILE}


def test_a_search_trial_sees_validation_and_a_confirmation_test_data() -> None:
    searched, confirmed = trial.run(make("linear")), trial.run(make("linear", phase="confirm"))
    for name in ("target_accuracy", "source_accuracy", "forgetting", "mean", "source_accuracy_before"):
        assert getattr(searched, name) is None
        assert getattr(searched, f"val_{name}") is not None
        assert getattr(confirmed, name) is not None
        assert getattr(confirmed, f"val_{name}") is None
    assert searched.status == confirmed.status == "ok"
    assert searched.steps == 4
    assert searched.trainable_parameters == 650
    assert searched.images_per_second is not None


def test_the_papers_protocol_chooses_on_test_data_and_normalises_as_the_paper_did() -> None:
    plain, paper = make("linear"), make("linear").model_copy(update={"protocol": "paper"})
    record = trial.run(paper)
    assert record.protocol == "paper"
    assert record.details["images"]["target_test"] == 500
    assert "target_val" not in record.details["images"]
    assert record.val_target_accuracy == trial.run(make("linear", phase="confirm")).target_accuracy
    dino = benchmarks.get("cifar100")
    changed = {"benchmark": dino}
    assert trial.target_preprocess(plain.model_copy(update=changed)).mean == (0.485, 0.456, 0.406)
    own = trial.target_preprocess(paper.model_copy(update=changed))
    assert (own.size, own.mean, own.std) == (224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_linear_probing_forgets_nothing() -> None:
    assert trial.run(make("linear", phase="confirm")).forgetting == 0


@pytest.mark.parametrize("method", methods.names())
def test_a_trial_repeats_itself_after_others(method: str) -> None:
    first = stable(trial.run(make(method)))
    trial.run(make("full", seed=7))
    assert stable(trial.run(make(method))) == first


@pytest.mark.slow
def test_a_warm_process_gives_what_a_fresh_one_gives(tmp_path: Path) -> None:
    trial.run(make("full", seed=7))
    for method in methods.names():
        code = (
            "import json, sys; from tests.unit import test_trial as t; from bench import trial;"
            "t.torch.set_num_threads(1); trial.data.source = t.small_source;"
            f"print('RECORD' + json.dumps(t.stable(trial.run(t.make({method!r})))))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        fresh = json.loads(done.stdout.split("RECORD")[1])
        assert stable(trial.run(make(method))) == fresh


def test_seeds_differ() -> None:
    first, second = trial.run(make("full")), trial.run(make("full", seed=1))
    assert first.details != second.details


def test_divergence_ends_in_a_failed_record() -> None:
    record = trial.run(make("full", steps=30, lr=1e38))
    assert record.status == "failed"
    assert record.error is not None
    assert "diverged" in record.error
    assert record.val_mean is None


def test_a_report_can_stop_a_trial() -> None:
    def report(metrics: Mapping[str, float]) -> None:
        if metrics["step"] >= 2:
            raise trial.TrialStopped

    record = trial.run(make("linear", steps=20), report)
    assert (record.status, record.steps) == ("stopped", 2)


def test_readings_on_the_way() -> None:
    study = studies.load("linear", overrides=["train.steps=4", "train.val_every=2"]).studies[0]
    spec = make_trial(study, benchmarks.get("tiny"), {"lr": 0.05}, launch="t", label="x", seed=0, phase="search")
    readings: list[Mapping[str, float]] = []
    trial.run(spec, readings.append)
    assert [r["step"] for r in readings if "val_source_accuracy" in r] == [2]


def ddp_losses(rank: int, world: int, folder: str, method: str) -> None:
    """Train 20 steps with others; rank 0 writes losses and features' accuracies."""
    torch.set_num_threads(1)
    trial.data.source = small_source
    dist.init_process_group("gloo", init_method=f"file://{folder}/{method}", rank=rank, world_size=world)
    losses: list[float] = []
    record = trial.run(make(method, steps=20), lambda metrics: losses.append(metrics["train_loss"]))
    if rank == 0:
        Path(folder, f"{method}.json").write_text(json.dumps([losses, stable(record)]))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "block_expansion"])
def test_two_workers_give_the_losses_of_one(method: str, tmp_path: Path) -> None:
    mp.spawn(ddp_losses, args=(2, str(tmp_path), method), nprocs=2)
    two, record = json.loads((tmp_path / f"{method}.json").read_text())
    one: list[float] = []
    alone = trial.run(make(method, steps=20), lambda metrics: one.append(metrics["train_loss"]))
    assert len(one) == 20
    assert two == pytest.approx(one, abs=1e-4)
    assert record["val_target_accuracy"] == pytest.approx(alone.val_target_accuracy, abs=0.7)
    assert record["val_source_accuracy"] == pytest.approx(alone.val_source_accuracy, abs=0.7)


def odd_features(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/odd", rank=rank, world_size=world)
    torch.save(features_of(257), f"{folder}/odd-{rank}.pt")
    dist.destroy_process_group()


def features_of(count: int) -> torch.Tensor:
    from bench import backbones

    bank = source("shapes").bank
    vit = backbones.create(backbones.TINY, num_classes=0)
    part = Images(bank.take(torch.arange(count)), bank.labels[:count])
    return evaluation.extract(vit, part, backbones.preprocess(backbones.TINY), torch.device("cpu"))


@pytest.mark.slow
def test_every_image_is_counted_once_on_two_workers(tmp_path: Path) -> None:
    mp.spawn(odd_features, args=(2, str(tmp_path)), nprocs=2)
    alone = features_of(257)
    for rank in range(2):
        found = torch.load(tmp_path / f"odd-{rank}.pt")
        assert found.shape == alone.shape
        assert torch.allclose(found, alone, atol=1e-5)
