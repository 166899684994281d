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
from safetensors.torch import save_file

from bench import benchmarks, evaluation, methods, records, studies, trial
from bench.data import Images, Source, source
from bench.spec import Backbone, SpecError, TrainConfig, Trial, make_trial

CPU = torch.device("cpu")
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


def test_random_weights_are_measured_before_and_after_on_one_backbone() -> None:
    specs = [make("linear", phase="confirm", seed=seed) for seed in (0, 1)]
    random = specs[0].benchmark.backbone.model_copy(update={"weights": "random"})
    found = [
        trial.run(spec.model_copy(update={"benchmark": spec.benchmark.model_copy(update={"backbone": random})}))
        for spec in specs
    ]
    assert [record.forgetting for record in found] == [0, 0]
    assert found[0].source_accuracy_before == found[1].source_accuracy_before
    assert found[0].target_accuracy != found[1].target_accuracy


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


def with_train(spec: Trial, **values: Any) -> TrainConfig:
    return TrainConfig.model_validate({**spec.train.model_dump(), **values})


def changed(spec: Trial, **values: Any) -> Trial:
    """The trial with other training fields."""
    return spec.model_copy(update={"train": with_train(spec, **values)})


def test_epochs_become_the_steps_of_the_record() -> None:
    reports: list[Mapping[str, float]] = []
    record = trial.run(changed(make("linear"), epochs=0.25), reports.append)  # of 997 images, 64 a step
    assert record.steps == 4
    assert {report["steps"] for report in reports} == {4}
    assert reports[-1]["step"] == 4


def test_an_impossible_number_of_epochs_is_said() -> None:
    with pytest.raises(SpecError, match=r"epochs = 0\.1 of 997 images: warmup_steps = 3 leaves nothing of steps = 2"):
        trial.run(changed(make("linear"), epochs=0.1, warmup_steps=3))


@pytest.mark.parametrize("phase", ["search", "confirm"])
def test_the_best_model_is_kept(phase: str) -> None:
    readings: dict[int, float] = {}

    def report(metrics: Mapping[str, float]) -> None:
        if "val_target_accuracy" in metrics:
            readings[int(metrics["step"])] = metrics["val_target_accuracy"]
            assert phase == "search" or "val_source_accuracy" not in metrics

    spec = changed(make("linear", steps=8, phase=phase, lr=20.0), val_every=2, keep="best", schedule="none")
    kept: list[Mapping[str, torch.Tensor]] = []
    record = trial.run(spec, report, keep=kept.append)
    last = trial.run(changed(spec, keep="last", val_every=0))
    step = record.details["kept_step"]
    assert sorted(readings) == [2, 4, 6]
    assert step in (2, 4, 6), "the test needs a recipe whose last model is not its best"
    assert readings[step] == max(readings.values())
    measured = trial.measure(spec.model_copy(update={"phase": "search"}), trial.restore(spec, kept[0], CPU), CPU)
    assert measured.scores["val_target_accuracy"] == readings[step]
    if phase == "search":
        assert last.val_target_accuracy < readings[step] == record.val_target_accuracy
    else:
        assert record.target_accuracy != last.target_accuracy


def confirmed(spec: Trial, folder: Path) -> Path:
    """Train a confirmation; returns its record's path, with the checkpoint where a study puts it."""
    kept: list[Mapping[str, torch.Tensor]] = []
    path = trial.run(spec, keep=kept.append).write(folder / spec.method / "records")
    records.weights_of(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(kept[0]), records.weights_of(path))
    return path


def test_linear_probing_then_fine_tuning(tmp_path: Path) -> None:
    probe = confirmed(make("linear", steps=30, phase="confirm", lr=0.5), tmp_path)
    for start in (probe, records.weights_of(probe)):
        second = changed(make("full", phase="confirm"), start_from=str(start))
        _, _, vit = trial.load(probe, CPU)
        begun = trial.build(second, CPU, trial.start_of(second))
        assert all(torch.equal(value, vit.state_dict()[name]) for name, value in begun.state_dict().items())
        assert all(parameter.requires_grad for parameter in begun.parameters())
    losses: list[float] = []
    trial.run(second, lambda metrics: losses.append(metrics["train_loss"]))
    fresh: list[float] = []
    trial.run(make("full", phase="confirm"), lambda metrics: fresh.append(metrics["train_loss"]))
    assert losses[0] < 0.8 * fresh[0]


@pytest.mark.parametrize("method", methods.names())
def test_a_trial_that_started_from_another_measures_the_same_again(method: str, tmp_path: Path) -> None:
    """Without the files that it started from: the frozen tensors are in its own checkpoint."""
    start = confirmed(make("full", phase="confirm"), tmp_path / "start")
    path = confirmed(changed(make(method, phase="confirm"), start_from=str(start)), tmp_path)
    records.weights_of(start).unlink()
    start.unlink()
    record, spec, vit = trial.load(path, CPU)
    found = trial.measure(spec, vit, CPU)
    assert all(getattr(record, name) == value for name, value in found.scores.items())
    assert record.source_accuracy_before != record.source_accuracy


@pytest.mark.parametrize("method", methods.names())
def test_the_same_method_goes_on_where_it_stopped(method: str, tmp_path: Path) -> None:
    start = confirmed(make(method, phase="confirm"), tmp_path)
    spec = changed(make(method, phase="confirm"), start_from=str(start))
    begun, ended = trial.build(spec, CPU, trial.start_of(spec)).state_dict(), trial.load(start, CPU)[2].state_dict()
    assert list(begun) == list(ended)
    assert all(torch.equal(begun[name], ended[name]) for name in ended)


def test_a_start_that_does_not_fit_lists_what_does_not(tmp_path: Path) -> None:
    start = confirmed(make("block_expansion", phase="confirm", p=1), tmp_path)
    spec = changed(make("full"), start_from=str(start))
    with pytest.raises(ValueError, match=r"does not fit: blocks\.12\.norm1\.weight is not in this model, .* more$"):
        trial.run(spec)
    other = spec.benchmark.model_copy(update={"backbone": Backbone(name="tiny", weights="random")})
    with pytest.raises(ValueError, match=r"has the backbone tiny, not tiny \(random\)"):
        trial.run(spec.model_copy(update={"benchmark": other}))


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


RECIPE = {
    "mixup_alpha": 0.4,
    "cutmix_alpha": 1.0,
    "randaugment_n": 2,
    "erase_prob": 0.25,
    "crop_min": 0.5,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "accumulate": 2,
}


def recipe_losses() -> list[float]:
    """The first losses of a trial with everything that is random in a recipe; the head norm allows no accumulation."""
    spec = make("full", steps=12, seed=3)
    benchmark = spec.benchmark.model_copy(update={"head_norm": False})
    spec = spec.model_copy(update={"train": with_train(spec, **RECIPE), "benchmark": benchmark})
    losses: list[float] = []

    def report(metrics: Mapping[str, float]) -> None:
        losses.append(metrics["train_loss"])
        if len(losses) == 10:
            raise trial.TrialStopped

    assert trial.run(spec, report).status == "stopped"
    return losses


def ddp_recipe(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/recipe", rank=rank, world_size=world)
    Path(folder, f"{rank}.json").write_text(json.dumps(recipe_losses()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_give_the_losses_of_one_with_every_augmentation(tmp_path: Path) -> None:
    mp.spawn(ddp_recipe, args=(2, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first == pytest.approx(recipe_losses(), abs=1e-4)


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


def test_the_papers_protocol_keeps_the_best_checkpoint_on_test_data() -> None:
    study = studies.load("linear", overrides=["train.steps=40", "protocol=paper"]).studies[0]
    spec = make_trial(study, benchmarks.get("tiny"), {"lr": 0.05}, launch="t", label="x", seed=0, phase="search")
    assert (spec.train.keep, spec.train.val_every) == ("best", 2)
    readings: list[Mapping[str, float]] = []
    record = trial.run(spec, readings.append)
    curve = {m["step"]: m["val_target_accuracy"] for m in readings if "val_target_accuracy" in m}
    assert len(curve) == 19
    assert record.val_target_accuracy == max([*curve.values(), record.val_target_accuracy])
