"""Frozen blocks that are computed once: the same training, less work, and what cannot be kept is refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.testing import assert_close

from bench import cache, data, methods, models, resources, trial
from bench.launching import benchmarks, studies
from bench.models import CPU
from bench.spec import Backbone, Phase, SpecError, TrainConfig, Trial, make_trial
from bench.training import prefix
from bench.vit import Vit
from tests.ranks import Ranks
from tests.unit.test_trial import losses_of, score, small_data, stable

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


def make(
    method: str, *, lr: float = 0.05, seed: int = 0, samples: int = 200, phase: Phase = "search", **train: Any
) -> Trial:
    """A trial on few images: four fifths of ``samples``."""
    overrides = [f"train.{name}={value}" for name, value in {"steps": 4, **train}.items()]
    (study,) = studies.load(method, overrides=overrides).studies
    values = {name: space.corners[-2] for name, space in study.search.items()} | {"lr": lr}
    benchmark = benchmarks.adapted(benchmarks.get("tiny"), {"target.samples": samples})
    return make_trial(study, benchmark, values, launch="t", label="x", seed=seed, phase=phase)


@contextmanager
def counted() -> Iterator[Counter[nn.Module]]:
    """How many images pass each norm."""
    passed: Counter[nn.Module] = Counter()

    def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if isinstance(module, nn.LayerNorm):
            passed[module] += len(inputs[0])

    handle = register_module_forward_hook(hook)
    try:
        yield passed
    finally:
        handle.remove()


def passes(spec: Trial) -> list[int]:
    """Images that pass the blocks of a trial's model, block by block."""
    models_built: list[Vit] = []
    build = models.build

    def built(*args: Any) -> Vit:
        models_built.append(build(*args))
        return models_built[-1]

    with pytest.MonkeyPatch.context() as patch, counted() as passed:
        patch.setattr(models, "build", built)
        trial.run(spec)
    return [passed[block.norm1] for block in models_built[0].blocks]


@pytest.mark.parametrize("method", FROZEN)
def test_beginning_and_tail_are_the_model(method: str) -> None:
    """To the last bits, which kernels of a CPU compute by how a tensor lies in memory."""
    vit = model(method).eval()
    tail = models.Tail(vit)
    assert tail.depth == FROZEN[method]
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        activations = tail.beginning(images)
        assert activations.shape == (4, *tail.shape())
        assert_close(tail(activations), vit(images))
        assert_close(tail.features(tail.beginning(images, "features")), models.features(vit, images))


@pytest.mark.parametrize("method", FROZEN)
def test_sharing_changes_nothing_but_the_last_bit(method: str) -> None:
    """The first trial computes what the second one finds; both learn and read what one does that shares nothing."""
    losses, alone = losses_of(make(method, share_frozen="false"))
    assert "shared" not in alone.details
    for _ in range(2):
        shared, record = losses_of(make(method))
        assert shared == pytest.approx(losses, rel=1e-5)
        assert len(shared) == 4
        for name in ("target_accuracy", "source_accuracy"):
            assert score(record, name) == pytest.approx(score(alone, name), abs=1)  # a tie
        assert record.details["frozen_blocks"] == FROZEN[method]


def test_the_record_says_what_was_shared() -> None:
    usual = ["target_train", "target_val", "source_queries", "source_bank"]
    augmented, best = {"flip": "true"}, {"keep": "best", "val_every": 1}
    read = ["target_test", "target_val", "source_queries", "source_bank", "source_queries_val"]
    for spec, splits in (
        (make("top_k", steps=1), usual),
        (make("linear", steps=1), usual[:2]),  # whose backbone stays as it was
        (make("top_k", steps=1, **augmented), usual[1:]),
        (make("top_k", steps=1, mixup_alpha=0.2), usual[1:]),
        (make("top_k", steps=1, views=2, **augmented), usual),
        (make("top_k", steps=2, phase="confirm", **best), ["target_train", *read]),
    ):
        assert trial.run(spec).details["shared"] == {"splits": splits, "left_out": []}
    only = trial.run(make("top_k", steps=1, views=2, share_frozen="false")).details
    assert (only["shared"]["splits"], only["frozen_blocks"]) == (["target_train"], 9)


def test_a_loss_of_its_own_sees_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []
    monkeypatch.setattr(type(methods.load("top_k")), "loss", lambda self, step: seen.append(step.inputs.shape))
    record = trial.run(make("top_k"))
    assert set(seen) == {torch.Size([64, 3, 32, 32])}
    assert "target_train" not in record.details["shared"]["splits"]


def test_an_image_passes_a_frozen_block_once() -> None:
    """Of all steps, readings and trials of a process, whatever they search."""
    measured, trained = 40 + 105 + 210, 160
    trial.run(make("linear"))  # the untouched backbone is measured
    prefix._kept.clear()
    steps = 4 * 64
    assert passes(make("top_k")) == [trained + measured] * 9 + [steps + measured] * 3
    assert passes(make("top_k", lr=0.1, seed=5, steps=6)) == [0] * 9 + [6 * 64 + measured] * 3
    # Other methods with the same first blocks: fewer of them, and more, which start where the kept ones end.
    assert passes(make("block_expansion"))[:4] == [trained + measured] * 4
    found = passes(make("linear"))
    assert found == [0] * 9 + [trained + 40] * 3
    assert passes(make("linear", lr=0.1)) == [0] * 12
    assert passes(make("linear", lr=0.1, val_every=1)) == [0] * 12


def test_views_differ_and_are_shared_by_trials_and_seeds() -> None:
    augmented = {"views": 2, "crop_min": 0.3, "flip": "true", "share_frozen": "false"}
    losses, record = losses_of(make("linear", **augmented))
    trial.run(make("linear", seed=1, **augmented))
    again, its = losses_of(make("linear", **augmented))
    assert (again, its.readings) == (losses, record.readings)
    (kept,) = prefix._kept
    views = kept.activations.view(2, 160, 64)
    assert (views[0] - views[1]).abs().mean() > 0.01
    trial.run(make("top_k", **augmented))
    trial.run(make("linear", **{**augmented, "views": 3}))
    assert len(prefix._kept) == 3


def test_views_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tail = models.Tail(model("top_k"))
    monkeypatch.setattr(prefix, "free_memory", lambda device: 10 * 2**20)
    with pytest.raises(SpecError, match=r"train.views = 4 of 1,000 images needs 0.0 GiB .* ask for fewer views"):
        prefix.check_views(tail, TrainConfig(views=4), images=1000, device=CPU)
    monkeypatch.setattr(prefix, "free_memory", lambda device: 0)
    with pytest.raises(SpecError, match="ask for fewer views"):  # memory that is gone since the launch was checked
        trial.run(make("linear", views=2))


SIZE = 100 * 17 * 64 * 4
"""Bytes of the tokens of a hundred images."""


def some_images() -> data.Images:
    return data.Images(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64))


def use(vit: Vit, *splits: data.Images) -> prefix.Shared:
    """One trial's use of some splits of a hundred images each."""
    uses = [prefix.measuring_use(f"split {i}", one, models.TINY_PREPROCESS, "features") for i, one in enumerate(splits)]
    shared = prefix.Shared.of(models.Tail(vit), uses, CPU)
    for one in shared.uses:
        shared.activations(one, lambda function, rows: iter([function(torch.zeros(100, 3, 32, 32))]))
    return shared


def held() -> int:
    return sum(kept.activations.nbytes for kept in prefix._kept)


def test_what_does_not_fit_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "free_memory", lambda device: int(2.5 * SIZE / prefix.SHARE) - held())
    splits = [some_images() for _ in range(4)]
    for _ in range(2):  # nothing of a trial's own makes room for the rest of it
        shared = use(model("top_k"), *splits)
        assert [one.name for one in shared.uses] == ["split 0", "split 1"]
        assert shared.left_out == ["split 2", "split 3"]
        assert held() == 2 * SIZE
    needed = (40 + 105 + 210 + 160) * 17 * 64 * 4
    monkeypatch.setattr(prefix, "free_memory", lambda device: int(0.7 * needed / prefix.SHARE) - held())
    losses, record = losses_of(make("top_k"))
    assert held() <= 0.7 * needed
    assert record.details["shared"] == {
        "splits": ["target_train", "target_val", "source_queries"],
        "left_out": ["source_bank"],
    }
    monkeypatch.setattr(prefix, "free_memory", lambda device: 0)
    prefix._kept.clear()
    nothing, record = losses_of(make("top_k"))
    assert nothing == pytest.approx(losses, rel=1e-5)
    assert record.details["shared"]["splits"] == []
    assert held() == 0


def test_processes_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "_processes", 1)
    monkeypatch.setattr(prefix, "free_memory", lambda device: 8_000_000)
    monkeypatch.setattr(resources, "memory", lambda: 10_000_000)
    assert prefix.budget(CPU) == 0.3 * 8_000_000
    prefix.share_memory(4)
    assert prefix.budget(CPU) == 0.3 * 2_500_000


def test_the_least_recently_used_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    images = some_images()
    monkeypatch.setattr(prefix, "free_memory", lambda device: int(2.5 * SIZE / prefix.SHARE) - held())
    depths = lambda: [kept.activations[0, 0, 0].item() for kept in prefix._kept]  # noqa: E731
    use(model("top_k"), images)
    (nine,) = depths()
    use(model("block_expansion"), images)
    use(model("top_k"), images)
    assert depths()[1] == nine
    four = depths()[0]
    vit = model("full").requires_grad_(False)
    vit.blocks[6].requires_grad_(True)
    use(vit, images)
    assert depths()[0] == nine
    assert four not in depths()
    assert held() == 2 * SIZE


def test_large_activations_are_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[tuple[int, ...]] = []
    scratch = cache.scratch

    def noted(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
        mapped.append(shape)
        return scratch(shape, dtype)

    monkeypatch.setattr(prefix.cache, "scratch", noted)
    usual = losses_of(make("top_k"))
    assert not mapped
    monkeypatch.setattr(prefix, "LARGE", 210 * 17 * 64 * 4)
    prefix._kept.clear()
    found, record = losses_of(make("top_k"))
    assert mapped == [(210, 17, 64)]
    assert (found, stable(record)) == (usual[0], stable(usual[1]))
    assert not list(cache.root().glob(".scratch*"))


@pytest.mark.parametrize("change", ["weight", "bias of the embedding", "setting", "images", "preprocess"])
def test_what_differs_is_not_shared(change: str) -> None:
    images, vit = some_images(), model("top_k")
    use(vit, images)
    if change == "weight":
        with torch.no_grad():
            vit.blocks[3].attn.proj.bias[5] += 1e-6
    elif change == "bias of the embedding":
        with torch.no_grad():
            vit.patch_embed.proj.bias[0] += 1e-6
    elif change == "setting":
        vit.blocks[3].attn.scale = 0.5
    elif change == "images":
        images = some_images()
    uses = [prefix.measuring_use("x", images, models.TINY_PREPROCESS, "features")]
    if change == "preprocess":
        uses = [prefix.Use(**{**vars(uses[0]), "preprocess": models.Preprocess(32, (0.1,) * 3, (0.5,) * 3)})]
    shared = prefix.Shared.of(models.Tail(vit), uses, CPU)
    called: list[bool] = []

    def fill(function: Any, rows: torch.Tensor | None) -> Iterator[torch.Tensor]:
        called.append(rows is None)
        yield function(torch.zeros(100, 3, 32, 32))

    shared.activations(uses[0], fill)
    assert called == [True]


def on_a_rank(rank: int, world: int) -> Mapping[str, Any]:
    with small_data():
        trial.run(make("block_expansion", steps=1))
        run = losses_of(make("top_k"))
        rows = {(kept.how[1], len(kept.activations)) for kept in prefix._kept}  # type: ignore[index]
        return {"run": run, "rows": rows}


def test_two_workers_share_what_one_does(ranks: Ranks) -> None:
    """Each keeps its own images to measure, and all to train on."""
    first, second = ranks(on_a_rank)
    losses, record = first["run"]
    assert (losses, record.readings) == (second["run"][0], second["run"][1].readings)
    alone, its = losses_of(make("top_k"))
    assert losses == pytest.approx(alone, abs=1e-5)
    for name in ("target_accuracy", "source_accuracy"):
        assert score(record, name) == pytest.approx(score(its, name), abs=1)
    assert record.details["shared"] == its.details["shared"]
    for rank, found in enumerate((first, second)):
        assert {count for how, count in found["rows"] if how[:2] == (rank, 2)} == {20, 105, math.ceil((105 - rank) / 2)}
        assert {count for how, count in found["rows"] if how[:2] != (rank, 2)} == {160}


def hooked(vit: Vit) -> Vit:
    vit.blocks[2].attn.register_forward_hook(lambda module, inputs, output: 2 * output)
    return vit


def test_blocks_from_the_first_altered_one_on_are_not_shared() -> None:
    assert models.Tail(hooked(model("top_k"))).depth == 2
    vit = model("top_k")
    vit.patch_embed.register_forward_pre_hook(lambda module, inputs: None)
    assert models.split(vit) is None
    other: Any = model("top_k")
    other.forward_features = lambda x: x
    assert models.split(other) is None


@pytest.mark.parametrize(("method", "said"), [("full", "this method trains"), ("lora", "trains the first one")])
def test_views_of_a_method_without_a_frozen_beginning_are_refused(method: str, said: str) -> None:
    assert models.split(model(method)) is None
    with pytest.raises(SpecError, match=said):
        models.Tail(model(method))


def test_other_architectures_are_not_shared() -> None:
    with models.shapes_only():  # what it is shows without its memory
        vit = models.plain(Backbone(name="beit_base_patch16_224"), num_classes=2)
    with pytest.raises(SpecError, match="needs a plain timm VisionTransformer, not a Beit"):
        models.Tail(methods.load("linear").apply(vit))
    assert models.split(vit) is None


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_what_is_trained_on_is_computed_in_the_precision_of_a_step(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA; here it is looked at what would be set."""
    set_to: list[bool] = []

    @contextmanager
    def switched(device: torch.device, *, allowed: bool) -> Iterator[None]:
        set_to.append(allowed)
        yield
        set_to.pop()

    seen: dict[str, bool] = {}
    whole = prefix.Shared._batches

    def noted(shared: prefix.Shared, use: prefix.Use, how: object, fill: prefix.Fill) -> Iterable[torch.Tensor]:
        seen[use.name] = set_to[-1]
        return whole(shared, use, how, fill)

    monkeypatch.setattr(prefix, "tensor_cores", switched)
    monkeypatch.setattr(prefix.Shared, "_batches", noted)
    assert trial.run(make("top_k", precision=precision)).status == "ok"
    assert seen.pop("target_train") is (precision == "tf32")
    assert set(seen.values()) == {False}  # what is measured is not a step


@pytest.mark.parametrize(("user", "left"), [("same", 2), ("other recipe", 1), ("nothing", 1)])
def test_a_gpu_is_freed_of_what_the_next_training_cannot_use(user: str, left: int) -> None:
    """So that neither its memory nor what is said of it depends on the trials before."""
    gpu, spec = torch.device("cuda"), make("top_k")
    setting = models.Setting.of(spec, CPU)
    images, preprocess = setting.target.train, setting.preprocess
    config = spec.train if user == "same" else spec.train.model_copy(update={"precision": "fp16"})
    held, wanted = (prefix.training_use(images, preprocess, c, gpu) for c in (spec.train, config))
    for use, place in ((held, gpu), (prefix.measuring_use("x", images, preprocess, "logits"), CPU)):
        kept: Any = SimpleNamespace(images=images, how=(preprocess, use.how, gpu))
        kept.activations = SimpleNamespace(device=place)
        prefix._kept.append(kept)
    prefix.forget_all_but(None if user == "nothing" else wanted, CPU)
    assert len(prefix._kept) == 2
    prefix.forget_all_but(None if user == "nothing" else wanted, gpu)
    assert len(prefix._kept) == left
    prefix._kept.clear()
