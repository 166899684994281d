"""A trial from specification to record: splits, look-ups, endings, and the same numbers wherever it runs."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bench import data, methods, models, trial
from bench.checkpoints import evaluate
from bench.data import Images, Source, Split, Target, shapes
from bench.folder import LaunchFolder
from bench.launching import benchmarks, plans, studies
from bench.measuring import Meter, features, meter, retention, source_score
from bench.models import CPU, Setting
from bench.models import setting as settings
from bench.readings import HEAD, KNN, SCORES, Point, Reading, curve, knn_numbers
from bench.records import Record, read
from bench.spec import Backbone, Objective, Phase, SpecError, Suite, TrainConfig, Trial, make_trial
from bench.vit import Vit
from tests.ranks import Ranks

pytestmark = pytest.mark.xdist_group("ranks")  # where the fixtures of this module are made once

CLASSES = 10
VAL, TEST = 100, 150
"""Images of the target that are measured; it has more."""

VOLATILE = {"train_seconds", "eval_seconds", "images_per_second", "provenance"}

Tensors = Mapping[str, torch.Tensor]


@contextmanager
def small_data(train: int = 1000) -> Iterator[None]:
    """Few images to measure on, and so many to train on at most: what is tested does not depend on their number."""
    whole = data.target

    def target(name: str, **about: Any) -> Target:
        found: Target = whole(name, **about)
        parts = {"train": train, "val": VAL, "test": TEST}
        return replace(found, **{name: first(getattr(found, name), most) for name, most in parts.items()})

    def source(name: str, **_: Any) -> Source:
        assert name == "shapes"
        return Source(drawn(210, 1), drawn(105, 2), drawn(105, 3), shapes.CLASS_NAMES)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "target", functools.cache(target))
        patch.setattr(data, "source", source)
        meter._before.clear()  # of the whole source
        yield
        meter._before.clear()


def first(split: Split, most: int) -> Images:
    count = min(most, len(split))
    return Images(split.take(torch.arange(count)), split.labels[:count])


@functools.cache
def drawn(count: int, seed: int) -> Images:
    pixels, labels = shapes.generate(count=count, seed=seed)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))


@pytest.fixture(scope="module", autouse=True)
def _small_and_quick(ranks: Ranks) -> Iterator[None]:
    """The ranks are asked for here, so that they are ready when they are needed."""
    torch.set_num_threads(1)
    with small_data():
        yield


def make(method: str, *, steps: int = 4, phase: Phase = "search", seed: int = 0, **values: Any) -> Trial:
    study = studies.load(method, overrides=[f"train.steps={steps}"]).studies[0]
    chosen = {**{name: space.corners[0] for name, space in study.search.items()}, "lr": 0.05, **values}
    return make_trial(study, benchmarks.get("tiny"), chosen, launch="test", label="x", seed=seed, phase=phase)


def stable(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.model_dump(mode="json").items() if key not in VOLATILE}


def score(record: Record, name: str = "target_accuracy") -> float:
    """A score of a trial's own phase, which must be there."""
    value = record.scores[name]
    assert value is not None
    return value


@pytest.fixture(scope="module")
def probes() -> Mapping[Phase, Record]:
    """A linear probe of either phase."""
    return {"search": trial.run(make("linear")), "confirm": trial.run(make("linear", phase="confirm"))}


def test_a_search_trial_sees_validation_and_a_confirmation_test_data(probes: Mapping[Phase, Record]) -> None:
    for phase, split, other in (("search", "val", "test"), ("confirm", "test", "val")):
        record = probes[phase]  # type: ignore[index]
        assert {reading.split for reading in record.readings} == {split}
        flat = record.model_dump()
        for name in SCORES:
            searched, confirmed = flat[f"val_{name}"], flat[name]
            assert (searched if phase == "search" else confirmed) == record.scores[name] is not None
            assert (confirmed if phase == "search" else searched) is None
        assert f"target_{split}" in record.details["images"]
        assert f"target_{other}" not in record.details["images"]
        named = list(shapes.CLASS_NAMES) if phase == "confirm" else None  # what tells its answers apart
        assert record.details["images"].get("source_classes") == named
        identities = record.details["images"]["identity"]
        assert set(identities) == {"target_train", f"target_{split}", "source_bank", "source_queries"}
        assert record.status == "ok"
        assert record.steps == 4
        assert record.trainable_parameters == 650
        assert record.images_per_second is not None


def test_a_record_says_which_images_it_has_seen(probes: Mapping[Phase, Record]) -> None:
    """Both phases have trained on the same ones; a confirmation's test images are those that its answers are about."""
    searched, confirmed = (probes[phase].details["images"]["identity"] for phase in ("search", "confirm"))
    assert searched["target_train"] == confirmed["target_train"] == data.target("digits").train.identity()
    assert searched["target_val"] != confirmed["target_test"]
    named = {"target": "target_test", "source": "source_queries"}
    answers = [reading for reading in probes["confirm"].readings if reading.answers is not None]
    assert {confirmed[named[reading.domain]] for reading in answers} == {
        reading.answers.images for reading in answers if reading.answers is not None
    }


def test_linear_probing_forgets_nothing(probes: Mapping[Phase, Record]) -> None:
    assert [record.scores["forgetting"] for record in probes.values()] == [0, 0]


def test_the_papers_protocol_chooses_on_test_data_and_normalises_as_the_paper_did(
    probes: Mapping[Phase, Record],
) -> None:
    plain = make("linear")
    paper = plain.model_copy(update={"protocol": "paper"})
    record = trial.run(paper)
    assert record.protocol == "paper"
    assert record.details["images"]["target_test"] == TEST
    assert "target_val" not in record.details["images"]
    assert record.model_dump()["val_target_accuracy"] == score(probes["confirm"])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    dino = {"benchmark": plain.benchmark.model_copy(update={"backbone": benchmarks.get("cifar100").backbone})}
    own, papers = (Setting.of(spec.model_copy(update=dino), CPU) for spec in (plain, paper))
    assert (own.preprocess.size, own.preprocess.mean, own.preprocess.std) == (224, mean, std)
    assert (papers.preprocess.size, papers.preprocess.mean, papers.preprocess.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert papers.source_preprocess == own.source_preprocess
    assert (papers.source_preprocess.mean, papers.source_preprocess.std) == (mean, std)


def test_random_weights_are_measured_before_and_after_on_one_backbone_and_seeds_differ() -> None:
    specs = [make("linear", phase="confirm", seed=seed) for seed in (0, 1)]
    random = specs[0].benchmark.backbone.model_copy(update={"weights": "random"})
    found = [
        trial.run(spec.model_copy(update={"benchmark": spec.benchmark.model_copy(update={"backbone": random})}))
        for spec in specs
    ]
    assert [record.scores["forgetting"] for record in found] == [0, 0]
    assert found[0].scores["source_accuracy_before"] == found[1].scores["source_accuracy_before"]
    assert score(found[0]) != score(found[1])


def in_reverse(rank: int, world: int, folder: str) -> dict[str, dict[str, Any]]:
    """A trial of every method, in a process, and with a cache folder, that have seen no other."""
    assert not meter._before
    os.environ["BENCH_DATA"] = folder
    with small_data():
        return {method: stable(trial.run(make(method))) for method in reversed(methods.names())}


@pytest.fixture(scope="module")
def fresh(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of a fresh process, in which each method has run before those that it runs after here."""
    (found,) = ranks(in_reverse, str(tmp_path_factory.mktemp("cache")), world=1)
    return found


@pytest.fixture(scope="module")
def _warm() -> None:
    trial.run(make("full", seed=7))


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize("method", methods.names())
def test_a_warm_process_gives_what_a_fresh_one_gives(method: str, fresh: dict[str, dict[str, Any]]) -> None:
    """A trial does not depend on those before it: they differ here and there, and there the first has none."""
    assert stable(trial.run(make(method))) == fresh[method]


def test_divergence_ends_in_a_failed_record() -> None:
    record = trial.run(make("full", steps=30, lr=1e38))
    assert record.status == "failed"
    assert record.error is not None
    assert "diverged" in record.error
    assert set(record.scores.values()) == {None}


def test_a_report_can_stop_a_trial() -> None:
    def report(point: Point) -> None:
        if point.step >= 2:
            raise trial.TrialStopped

    record = trial.run(make("linear", steps=20), report)
    assert (record.status, record.steps) == ("stopped", 2)


def with_train(spec: Trial, **values: Any) -> TrainConfig:
    return TrainConfig.model_validate({**spec.train.model_dump(), **values})


def changed(spec: Trial, **values: Any) -> Trial:
    """The trial with other training fields."""
    return spec.model_copy(update={"train": with_train(spec, **values)})


def test_epochs_become_the_steps_of_the_record() -> None:
    points: list[Point] = []
    record = trial.run(changed(make("linear"), epochs=0.25), points.append)  # of 997 images, 64 a step
    assert record.steps == 4
    assert {point.steps for point in points} == {4}
    assert points[-1].step == 4


def test_an_impossible_number_of_epochs_is_said() -> None:
    with pytest.raises(SpecError, match=r"epochs = 0\.1 of 997 images: warmup_steps = 3 leaves nothing of steps = 2"):
        trial.run(changed(make("linear"), epochs=0.1, warmup_steps=3))


class Counted:
    """Counts calls of a function by what they are about."""

    def __init__(self, function: Callable[..., Any], about: Callable[..., object]) -> None:
        self.calls: Counter[object] = Counter()
        self._function, self._about = function, about

    def __call__(self, *args: Any, **values: Any) -> Any:
        self.calls[self._about(*args, **values)] += 1
        return self._function(*args, **values)


def weights_of(vit: Vit) -> str:
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in vit.state_dict().values())).hexdigest()


@dataclass(frozen=True)
class Watched:
    """A trial that keeps its best model and has variants, with what it reported and how often it asked for what."""

    spec: Trial
    record: Record
    points: Sequence[Point]
    kept: Tensors
    lookups: Mapping[str, Counter[object]]
    measured: Mapping[str, Counter[object]]

    def numbers(self, split: str, domain: str, probe: str, variant: str | None = None) -> dict[int, float]:
        """Top-1 by step."""
        key = (split, domain, probe, variant)
        return {reading.step: reading.numbers["top1"] for reading in self.record.readings if reading.key[1:] == key}


@pytest.fixture(scope="module", params=["search", "confirm"])
def watched(request: pytest.FixtureRequest) -> Watched:
    """At this learning rate and with this seed, neither the first nor the last of its models is the best one."""
    phase: Phase = request.param
    spec = make("wise_ft", steps=8, phase=phase, seed=3, lr=0.1)
    spec = changed(spec, val_every=2, keep="best", schedule="none")
    lookups = {
        "target": Counted(data.target, lambda name, **_: name),
        "source": Counted(data.source, lambda name, **_: name),
        "preprocess": Counted(settings.preprocess, lambda backbone: backbone),
    }
    measured = {
        "target": Counted(meter.target_score, lambda vit, images, *_: (id(images), weights_of(vit))),
        "source": Counted(meter.source_score, lambda vit, source, images, *_: (id(images), weights_of(vit))),
    }
    points: list[Point] = []
    kept: list[Tensors] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "target", lookups["target"])
        patch.setattr(data, "source", lookups["source"])
        patch.setattr(settings, "preprocess", lookups["preprocess"])
        patch.setattr(meter, "target_score", measured["target"])
        patch.setattr(meter, "source_score", measured["source"])
        record = trial.run(spec, points.append, keep=kept.append)
    return Watched(
        spec,
        record,
        points,
        kept[0],
        {name: counted.calls for name, counted in lookups.items()},
        {name: counted.calls for name, counted in measured.items()},
    )


def test_a_trial_looks_everything_up_once(watched: Watched) -> None:
    for name, calls in watched.lookups.items():
        assert calls.total() == 1, name


def test_no_model_is_measured_twice_on_the_same_images(watched: Watched) -> None:
    """The kept model is one that was measured on the way, as far as its phase is measured there."""
    for calls in watched.measured.values():
        assert set(calls.values()) == {1}
    variants = 3
    steps = 4  # 2, 4, 6 and the last one, 8
    on_test = 0 if watched.spec.phase == "search" else 1
    assert watched.measured["target"].total() == steps + variants + on_test
    assert watched.measured["source"].total() == steps + variants + on_test


def test_readings_on_the_way_are_of_validation_data_in_either_phase(watched: Watched) -> None:
    read = {point.step: point.readings for point in watched.points if point.readings}
    assert sorted(read) == [2, 4, 6]  # the last step's model is measured after training
    for point in watched.points:
        for name in ("val_target_accuracy", "val_source_accuracy", "val_forgetting", "val_mean"):
            assert (name in curve(point)) == (point.step in read)
        assert {reading.split for reading in point.readings} <= {"val"}


def test_the_best_model_is_kept(watched: Watched) -> None:
    record, step = watched.record, watched.record.details["kept_step"]
    on_val = watched.numbers("val", "target", HEAD)
    assert sorted(on_val) == [2, 4, 6, 8]
    assert step in (4, 6), "the test needs a recipe whose first and last models are not its best"
    assert on_val[step] == max(on_val.values()) > on_val[8]
    restored = models.restore(watched.spec, watched.kept, CLASSES)
    again = Meter(watched.spec, Setting.of(watched.spec, CPU))
    assert again.target(restored, step, "val").numbers["top1"] == on_val[step]
    for reading in again.measure(restored, step):
        assert reading in record.readings
    assert score(record) == again.target(restored, step, again.target_split).numbers["top1"]


def test_every_reading_says_what_was_measured(watched: Watched) -> None:
    readings = watched.record.readings
    assert len({reading.key for reading in readings}) == len(readings) > 4
    assert watched.record.variants == ["alpha=0.25", "alpha=0.5", "alpha=0.75"]
    sets = Setting.of(watched.spec, CPU)
    for reading in readings:
        assert reading.n == len(getattr(getattr(sets, reading.domain), reading.split))
        assert reading.settings == ({"bank": len(sets.source.bank), "k": 20} if reading.probe == KNN else {})
    # Step 0 is the untouched backbone, of which only the source is measured: it has no head.
    before = [reading for reading in readings if reading.step == 0]
    assert {reading.split for reading in before} == ({"val"} if watched.spec.phase == "search" else {"val", "test"})
    untouched = models.create(watched.spec.benchmark.backbone, num_classes=0)
    for reading in before:
        queries = getattr(sets.source, reading.split)
        expected = source_score(untouched, sets.source, queries, sets.source_preprocess, CPU)
        assert (reading.domain, reading.probe, reading.variant) == ("source", KNN, None)
        assert reading.numbers == knn_numbers(expected.by_k)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_features_are_made_as_asked_and_compared_in_float32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA; here it is looked at what would be set."""
    allowed: list[bool] = []
    passed: dict[str, set[bool]] = {"model": set(), "k-NN": set()}

    @contextmanager
    def switched(device: torch.device, *, allowed: bool, stack: list[bool] = allowed) -> Iterator[None]:
        stack.append(allowed)
        yield
        stack.pop()

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            passed[name].add(allowed[-1])
            return function(*args, **options)

        return noted

    for module in (meter, retention):
        monkeypatch.setattr(module, "tensor_cores", switched)
    monkeypatch.setattr(features, "features", noting("model", features.features))
    monkeypatch.setattr(retention.knn, "knn_hits", noting("k-NN", retention.knn.knn_hits))
    monkeypatch.setattr(meter, "_before", {})
    spec = make("full", steps=1)
    benchmark = spec.benchmark.model_copy(update={"measure_precision": precision})
    record = trial.run(spec.model_copy(update={"benchmark": benchmark}))
    assert record.status == "ok"
    assert passed == {"model": {precision == "tf32"}, "k-NN": {False}}


def test_a_confirmation_reads_on_the_way_what_a_search_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at its end what it is asked for."""

    def source(name: str, *, per_class: int, queries: int, **_: Any) -> Source:
        return Source(bank=drawn(per_class, 1), val=drawn(queries, 2), test=drawn(queries, 3))

    monkeypatch.setattr(data, "source", functools.cache(source))
    sizes = {"per_class": 60, "queries": 20, "confirm_per_class": 90, "confirm_queries": 30}
    benchmark = benchmarks.adapted(benchmarks.get("tiny"), {f"source.{name}": size for name, size in sizes.items()})
    spec = changed(make("linear", steps=3, phase="confirm"), val_every=2)
    record = trial.run(spec.model_copy(update={"benchmark": benchmark}))
    of_source = [reading for reading in record.readings if reading.domain == "source"]
    read = {(reading.step, reading.split): (reading.settings["bank"], reading.n) for reading in of_source}
    searched, confirmed = (60, 20), (90, 30)
    assert read == {
        (0, "val"): searched,
        (2, "val"): searched,
        (3, "val"): searched,
        (0, "test"): confirmed,
        (3, "test"): confirmed,
    }
    assert record.scores["forgetting"] == 0


@pytest.mark.parametrize(
    ("objective", "best"),
    [("mean", 2), ("target_accuracy", 3), ("{maximise: target_accuracy, subject_to: {forgetting: {max: 1}}}", 1)],
)
def test_the_model_that_is_kept_is_the_best_by_the_objective(objective: str, best: int) -> None:
    """Of three models the last learned most, the second lost less for it, and the first lost nothing."""
    kept = trial._Best(models.create(Backbone(name="tiny"), num_classes=CLASSES), parsed_objective(objective))
    for step, (target, source) in enumerate([(50, 90), (70, 80), (80, 60)], start=1):
        numbers = {"target": (HEAD, target), "source": (KNN, source)}
        known: dict[str, Any] = {"split": "val", "n": 100}
        readings = [
            Reading(step=step, domain=domain, probe=probe, numbers={"top1": float(top1)}, **known)  # type: ignore[arg-type]
            for domain, (probe, top1) in numbers.items()
        ]
        before = Reading(step=0, domain="source", probe=KNN, numbers={"top1": 90.0}, **known)
        kept.offer(step, [*readings, before])
    assert kept.put_back() == best


def test_with_a_constant_learning_rate_a_reading_is_what_a_shorter_training_ends_with() -> None:
    whole = trial.run(changed(make("lora", steps=6), val_every=2, schedule="none", warmup_steps=1))
    short = trial.run(changed(make("lora", steps=4), schedule="none", warmup_steps=1))
    assert len(short.readings) == 3
    assert all(reading in whole.readings for reading in short.readings)


def parsed_objective(text: str) -> Objective:
    found: Objective = studies.load("full", overrides=[f"objective={text}"]).studies[0].objective
    return found


def test_a_front_has_no_best_model_to_keep() -> None:
    overrides = ["objective=[target_accuracy, source_accuracy]", "train.keep=best", "train.val_every=5"]
    study = studies.load("full", overrides=overrides).studies[0]
    with pytest.raises(SpecError, match="keep = best needs one score to choose by"):
        studies.check(study, benchmarks.get("tiny"), depth=12)


def test_a_confirmation_keeps_which_images_were_right(watched: Watched) -> None:
    """Of all that a leaderboard shows, the untouched backbone and the variants too, with the images' identity."""
    sets = Setting.of(watched.spec, CPU)
    for reading in watched.record.readings:
        judged = watched.spec.phase == "confirm" and reading.split == "test"
        assert (reading.answers is not None) is judged
        if reading.answers is not None and reading.n is not None:
            images = getattr(getattr(sets, reading.domain), reading.split)
            assert reading.answers.images == images.identity()
            right = reading.answers.array(reading.n)
            pairs, classes = reading.answers.confusion(reading.n), reading.answers.labels(reading.n)
            assert (pairs is not None) is (reading.probe == HEAD)
            assert (classes is not None) is (reading.probe == HEAD or reading.step == 0)
            if classes is not None:
                assert classes.tolist() == images.labels.tolist()
            assert 100 * right.mean() == pytest.approx(reading.numbers["top1"])
    again = Record.model_validate_json(watched.record.model_dump_json())
    assert again == watched.record


def test_a_trials_peak_memory_is_beside_its_result(watched: Watched) -> None:
    peak = watched.record.provenance["peak_memory"]
    assert peak["of"] == "process"
    assert 50e6 < peak["bytes"] < 50e9


@pytest.fixture(scope="module")
def line() -> tuple[Trial, Record, Vit]:
    """WiSE-FT with both ends of the line and a model between them: specification, record, trained model."""
    spec = make("wise_ft", phase="confirm")
    spec = spec.model_copy(update={"fields": {"alphas": (0.0, 0.3, 1.0)}})
    kept: list[Tensors] = []
    record = trial.run(spec, keep=kept.append)
    return spec, record, models.restore(spec, kept[0], CLASSES)


def read_of(record: Record, variant: str | None) -> dict[str, Reading]:
    """Readings of a model by domain."""
    return {r.domain: r for r in record.readings if r.variant == variant and r.step > 0}


def test_the_ends_of_wise_fts_line_are_the_trained_model_and_the_untouched_backbone(
    line: tuple[Trial, Record, Vit],
) -> None:
    _, record, _ = line
    assert record.variants == ["alpha=0", "alpha=0.3", "alpha=1"]
    trained, untouched, between, end = (read_of(record, name) for name in (None, *record.variants))
    for domain in ("target", "source"):
        assert end[domain].numbers == trained[domain].numbers
        assert between[domain].numbers != trained[domain].numbers
    (before,) = [reading for reading in record.readings if reading.step == 0]
    assert untouched["source"].numbers == before.numbers
    assert record.scores_of("alpha=0")["forgetting"] == 0 != score(record, "forgetting")


def test_wise_fts_weights_lie_on_the_line_and_the_trained_model_stays_as_it_is(line: tuple[Trial, Record, Vit]) -> None:
    spec, _, vit = line
    untouched = models.untouched(spec.benchmark.backbone, CPU)
    assert not models.same_features(vit, untouched)
    before = untouched.state_dict()
    after = {name: value.clone() for name, value in vit.state_dict().items()}
    names = []
    for name, variant in methods.load("wise_ft", **spec.fields).after(vit, untouched):
        names.append(name)
        share = float(name.removeprefix("alpha="))
        found = variant.state_dict()
        assert set(found) == set(after)
        for key, value in found.items():
            if key not in before:
                assert key.startswith(("head.", "fc_norm."))
                assert torch.equal(value, after[key]), key
            elif share in (0, 1):
                assert torch.equal(value, (before, after)[int(share)][key]), key
            else:
                expected = (1 - share) * before[key].double() + share * after[key].double()
                assert torch.allclose(value.double(), expected, rtol=1e-6, atol=1e-8), key
    assert names == ["alpha=0", "alpha=0.3", "alpha=1"]
    assert all(torch.equal(value, after[name]) for name, value in vit.state_dict().items())


def confirmed(spec: Trial, folder: Path) -> Path:
    """Train a confirmation; returns its record's path, with the checkpoint where a study puts it."""
    kept: list[Tensors] = []
    path = trial.run(spec, keep=kept.append).write(folder / spec.method / "records")
    weights = checkpoint(path)
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(kept[0]), weights)
    return path


def checkpoint(path: Path) -> Path:
    """The checkpoint beside a record's file."""
    return LaunchFolder.holding(path).checkpoint(path.stem)


def begun(spec: Trial) -> Vit:
    """The model of a trial before its first step."""
    return models.build(spec, CLASSES, CPU, models.start_of(spec))


def test_linear_probing_then_fine_tuning(tmp_path: Path) -> None:
    probe = confirmed(make("linear", steps=20, phase="confirm", lr=0.5), tmp_path)
    _, _, probed = models.load(probe)
    for start in (probe, checkpoint(probe)):
        second = changed(make("full", phase="confirm"), start_from=str(start))
        vit = begun(second)
        assert all(torch.equal(value, probed.state_dict()[name]) for name, value in vit.state_dict().items())
        assert all(parameter.requires_grad for parameter in vit.parameters())
    first = [first_loss(spec) for spec in (second, make("full", phase="confirm"))]
    assert first[0] < 0.8 * first[1]


def first_loss(spec: Trial) -> float:
    losses: list[float] = []

    def report(point: Point) -> None:
        losses.append(point.values["train_loss"])
        raise trial.TrialStopped

    trial.run(spec, report)
    return losses[0]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fully fine-tuned model that other trials start from."""
    return confirmed(make("full", phase="confirm", lr=0.1), tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("method", methods.names())
def test_a_trial_that_started_from_another_is_measured_again_and_gone_on_with(
    method: str, start: Path, tmp_path: Path
) -> None:
    """Without the files that it started from: the frozen tensors are in its own checkpoint."""
    own = tmp_path / "start" / "records" / start.name
    for source, copy in ((start, own), (checkpoint(start), checkpoint(own))):
        copy.parent.mkdir(parents=True)
        copy.write_bytes(source.read_bytes())
    path = confirmed(changed(make(method, phase="confirm"), start_from=str(own)), tmp_path)
    checkpoint(own).unlink()
    own.unlink()
    record, spec, vit = models.load(path)
    again = Meter(spec, Setting.of(spec, CPU))
    again.measure_all(vit, record.measured_step, methods.load(spec.method, **spec.fields))
    assert again.readings == record.readings
    assert score(record, "source_accuracy_before") != score(record, "source_accuracy")
    # The same method with the same fields goes on with the very tensors.
    goes_on = begun(changed(make(method, phase="confirm"), start_from=str(path))).state_dict()
    ended = vit.state_dict()
    assert list(goes_on) == list(ended)
    assert all(torch.equal(goes_on[name], ended[name]) for name in ended)


def test_a_start_that_does_not_fit_lists_what_does_not(tmp_path: Path) -> None:
    other = confirmed(make("block_expansion", phase="confirm", p=1, steps=1), tmp_path)
    spec = changed(make("full"), start_from=str(other))
    with pytest.raises(ValueError, match=r"does not fit: blocks\.12\.norm1\.weight is not in this model, .* more$"):
        trial.run(spec)
    study = studies.load("full", overrides=[f"train.start_from={other}"]).studies[0]
    with pytest.raises(SpecError, match=r"does not fit: blocks\.12\.norm1\.weight is not in this model"):
        plans.check_starts(Suite(name="x", studies=(study,)), spec.benchmark)  # before anything starts
    random = spec.benchmark.model_copy(update={"backbone": Backbone(name="tiny", weights="random")})
    with pytest.raises(ValueError, match=r"has the backbone tiny, not tiny \(random\)"):
        trial.run(spec.model_copy(update={"benchmark": random}))


Run = tuple[list[float], Record]


def losses_of(spec: Trial) -> Run:
    """A trial's losses, of every step, and its record."""
    losses: list[float] = []
    record = trial.run(spec, lambda point: losses.append(point.values["train_loss"]))
    return losses, record


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
"""Everything that is random in a recipe."""


def compared() -> dict[str, Trial]:
    """Trials whose numbers must not depend on the number of workers."""
    everything = make("full", steps=10, seed=3)
    without_head_norm = everything.benchmark.model_copy(update={"head_norm": False})  # it allows no accumulation
    return {
        "l2_sp": make("l2_sp", steps=10, alpha=0.5),
        "block_expansion": make("block_expansion", steps=10),
        "every augmentation": everything.model_copy(
            update={"train": with_train(everything, **RECIPE), "benchmark": without_head_norm}
        ),
    }


def on_a_rank(rank: int, world: int) -> dict[str, Run]:
    with small_data():
        return {name: losses_of(spec) for name, spec in compared().items()}


@pytest.fixture(scope="module")
def both(ranks: Ranks) -> list[dict[str, Run]]:
    """What two workers found."""
    return ranks(on_a_rank)


@pytest.mark.parametrize("name", compared())
def test_two_workers_give_the_losses_of_one(name: str, both: list[dict[str, Run]]) -> None:
    """Head norm, a method's own loss, and augmentation: each is that of the global batch."""
    (first, record), (second, its) = (found[name] for found in both)
    assert first == second
    assert record.readings == its.readings
    one, alone = losses_of(compared()[name])
    assert len(one) == 10
    assert first == pytest.approx(one, abs=1e-4)
    for quantity in ("target_accuracy", "source_accuracy"):
        assert score(record, quantity) == pytest.approx(score(alone, quantity), abs=1)  # an image
    assert record.provenance["workers"] == 2


def test_the_papers_protocol_keeps_the_best_checkpoint_on_test_data() -> None:
    def papers(steps: int) -> Trial:
        (study,) = studies.load("linear", overrides=[f"train.steps={steps}", "protocol=paper"]).studies
        return make_trial(study, benchmarks.get("tiny"), {"lr": 0.05}, launch="t", label="x", seed=0, phase="search")

    assert (papers(40).train.keep, papers(40).train.val_every) == ("best", 2)
    points: list[Point] = []
    record = trial.run(papers(6), points.append)
    read = {point.step: curve(point)["val_target_accuracy"] for point in points if point.readings}
    assert sorted(read) == [1, 2, 3, 4, 5]
    assert {reading.split for point in points for reading in point.readings} == {"test"}
    assert score(record) == max([*read.values(), score(record)])
    assert score(record) == {**read, 6: score(record)}[record.details["kept_step"]]


def test_beside_the_papers_reading_a_confirmation_notes_what_validation_data_would_choose_by() -> None:
    """So that both choices can be compared of the same models; what is chosen and reported stays the paper's."""
    (study,) = studies.load("linear", overrides=["train.steps=6", "protocol=paper"]).studies
    points: list[Point] = []
    for phase, noted in (("search", set()), ("confirm", {1, 2, 3, 4, 5, 6})):
        spec = make_trial(study, benchmarks.get("tiny"), {"lr": 0.5}, launch="t", label="x", seed=0, phase=phase)
        record = trial.run(spec, points.append)
        of_target = [reading for reading in record.readings if reading.domain == "target"]
        assert {reading.step for reading in of_target if reading.split == "val"} == noted
        assert {reading.step for reading in of_target if reading.split == "test"} == {1, 2, 3, 4, 5, 6}
        best = max(reading.numbers["top1"] for reading in of_target if reading.split == "test")
        assert score(record) == best
    assert {reading.split for point in points for reading in point.readings} == {"test"}


def test_the_papers_preprocessing_is_a_field_of_its_own() -> None:
    """It follows from the protocol unless it is said, and is written down only where it is."""
    plain, paper = make("linear"), make("linear").model_copy(update={"protocol": "paper"})
    said = [make("linear", preprocess=how) for how in ("backbone", "paper")]
    reversed_ = said[0].model_copy(update={"protocol": "paper"})
    assert [one.papers_preprocess for one in (plain, paper, *said, reversed_)] == [False, True, False, True, False]
    assert "preprocess" not in paper.model_dump()["train"]
    assert said[1].model_dump()["train"]["preprocess"] == "paper"
    dino = {"benchmark": plain.benchmark.model_copy(update={"backbone": benchmarks.get("cifar100").backbone})}
    settings_of = [Setting.of(one.model_copy(update=dino), CPU).preprocess for one in (plain, paper, *said)]
    assert settings_of[0] == settings_of[2] != settings_of[1] == settings_of[3]


def test_a_model_that_was_kept_on_the_way_is_measured_again_as_it_was(tmp_path: Path) -> None:
    """The record also holds readings of later steps, and these are of other models."""
    spec = changed(make("linear", steps=8, phase="confirm", lr=0.5), val_every=1, keep="best", schedule="none")
    spec = spec.model_copy(update={"protocol": "paper"})
    path = confirmed(spec, tmp_path)
    record = read(path)
    assert record.details["kept_step"] < 8
    assert evaluate(path).deviation == 0


def test_the_papers_protocol_reads_more_and_trains_the_same() -> None:
    """With the same preprocessing its last model is that of the clean protocol: an audit is about choices alone."""
    plain = make("top_k", steps=6, phase="confirm")
    of_paper = changed(plain, val_every=2, keep="best").model_copy(update={"protocol": "paper"})
    ends = []
    for spec in (plain, of_paper):
        read = {reading.key: reading for reading in trial.run(spec).readings}
        ends.append(read[6, "test", "target", HEAD, None])
    assert ends[0] == ends[1]
