"""Evaluation: every image counted once and in order, on one process or two, and the model left as it was."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.features
import pytest
import timm
import torch
from torch import Tensor

from bench import cache, data, models, parallel
from bench.data import Images, Source, shapes
from bench.measuring import SourceScore, circumstances, features, knn, retention
from bench.models import TINY_PREPROCESS, Preprocess
from bench.readings import Answers
from bench.vit import Vit
from tests.ranks import Ranks

CPU = torch.device("cpu")
RAW = Preprocess(size=2, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
"""Leaves pixel values as they are, so that an image can carry its own number."""
ODD = (1, 255, 256, 257, 511, 513)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def numbered(count: int) -> Images:
    """Images that hold their own index, in two channels."""
    index = torch.arange(count)
    pixels = torch.stack([index // 256, index % 256, torch.zeros_like(index)], 1).to(torch.uint8)
    return Images(pixels[:, :, None, None].expand(-1, -1, 2, 2).contiguous(), index % 3)


def number(images: Tensor) -> Tensor:
    return (256 * images[:, 0, 0, 0] + images[:, 1, 0, 0]).round().long()


def drawn(count: int, seed: int) -> Images:
    images, labels = shapes.generate(count=count, seed=seed)
    return Images(torch.from_numpy(images), torch.from_numpy(labels))


def tiny() -> Vit:
    """The shipped backbone with a head that is the same in every process."""
    torch.manual_seed(0)
    return models.create(models.TINY, num_classes=21)


@pytest.mark.parametrize("count", ODD)
def test_every_image_is_mapped_once_and_in_order(count: int) -> None:
    seen: list[Tensor] = []

    def function(images: Tensor) -> Tensor:
        assert len(images) <= features.BATCH
        seen.append(number(images))
        return number(images)

    assert torch.equal(features.map_images(function, numbered(count), RAW, CPU), torch.arange(count))
    assert torch.equal(torch.cat(seen), torch.arange(count))


def test_a_batch_that_does_not_fit_is_halved_once_and_for_all() -> None:
    tried: list[int] = []

    def function(images: Tensor) -> Tensor:
        tried.append(len(images))
        if len(images) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return number(images)

    assert torch.equal(features.map_images(function, numbered(400), RAW, CPU), torch.arange(400))
    assert tried == [256, 128, 64, 64, 64, 64, 64, 64, 16]

    def never(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        features.map_images(never, numbered(5), RAW, CPU)


@pytest.mark.parametrize("count", ODD)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_out_every_image(count: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(parallel.mine(count))
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Recorder(torch.nn.Module):
    """A model whose logits are right for all but every tenth image; it notes the mode it is called in."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []
        self.norm = torch.nn.LayerNorm(3)  # as every backbone has one: its features are those behind it

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        index = number(images)
        said = torch.where(index % 10 == 0, index + 1, index) % 3
        return torch.nn.functional.one_hot(said, 3).float()

    def forward_features(self, images: Tensor) -> Tensor:
        return self(images)[:, None]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(training: bool) -> None:
    vit = Recorder().train(training)
    features.extract(vit, numbered(300), RAW, CPU)
    features.target_score(vit, numbered(300), RAW, CPU)
    assert vit.modes == [False] * 4
    assert vit.training is training


def test_the_mode_is_restored_after_an_error() -> None:
    vit = Recorder().train()
    vit.forward_features = lambda images: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        features.extract(vit, numbered(3), RAW, CPU)
    assert vit.training


def test_accuracy_counts_every_image_once() -> None:
    score = features.target_score(Recorder(), numbered(257), RAW, CPU)
    assert score.top1 == pytest.approx(100 * (257 - 26) / 257, abs=1e-9)
    assert score.top5 == 100
    right = Answers(images="", right=score.right).array(257)
    assert right.tolist() == [index % 10 != 0 for index in range(257)]
    pairs = Answers(images="", **score.answers).confusion(257)
    assert pairs is not None
    assert pairs[0].tolist() == numbered(257).labels.tolist()
    assert (pairs[0] == pairs[1]).tolist() == right.tolist()


def test_logits_of_a_diverged_model_are_refused() -> None:
    vit = Recorder()
    vit.forward = lambda images: torch.full((len(images), 3), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="diverged"):
        features.target_score(vit, numbered(3), RAW, CPU)


def test_the_headline_is_top_1_at_k_20_or_at_the_largest_k() -> None:
    assert SourceScore({10: (1.0, 2.0), 20: (3.0, 4.0), 100: (5.0, 6.0)}, "").accuracy == 3.0
    assert SourceScore({5: (1.0, 2.0), 10: (3.0, 4.0)}, "").accuracy == 3.0
    domain = Source(bank=drawn(50, 1), val=drawn(21, 2), test=drawn(21, 3))
    score = retention.source_score(tiny(), domain, domain.val, TINY_PREPROCESS, CPU)
    assert sorted(score.by_k) == [10, 20]  # not more neighbours than the bank has images


def readings() -> tuple[list[Tensor], dict[str, Any]]:
    """Features and scores at sizes that neither batches nor two ranks divide."""
    vit = tiny()
    domain = Source(bank=drawn(513, 1), val=drawn(257, 2), test=drawn(3, 3))
    found = [features.extract(vit, part, TINY_PREPROCESS, CPU) for part in (domain.bank, domain.val, domain.test)]
    accuracies = [features.target_score(vit, part, TINY_PREPROCESS, CPU) for part in (domain.val, domain.test)]
    scores = {k: list(both) for k, both in scored(vit, domain).by_k.items()}
    return found, {"accuracies": accuracies, "scores": scores, "lone": lone(vit)}


def lone(vit: Vit) -> dict[int, tuple[float, float]]:
    """The score in a bank of one image, of which all ranks but the first hold nothing."""
    domain = Source(bank=drawn(1, 1), val=drawn(21, 2), test=drawn(21, 3))
    return dict(retention.source_score(vit, domain, domain.val, TINY_PREPROCESS, CPU, ks=(1,)).by_k)


def scored(vit: Vit, domain: Source) -> SourceScore:
    return retention.source_score(vit, domain, domain.val, TINY_PREPROCESS, CPU)


def bank_features_of(rank: int) -> int:
    """How many features of a bank of 513 a rank searches: it must hold its own share only."""
    held: list[int] = []
    nearest = knn.nearest

    def watched(queries: Tensor, bank: Tensor, k: int, **place: int) -> Tensor:
        held.append(len(bank))
        return nearest(queries, bank, k, **place)

    knn.nearest = watched
    scored(tiny(), Source(bank=drawn(513, 1), val=drawn(21, 2), test=drawn(3, 3)))
    knn.nearest = nearest
    return held[0]


def refusal(rank: int) -> str:
    """What every rank says when the features of one of them are not finite."""
    vit = tiny()
    if rank == 1:
        vit.norm.weight.data.fill_(torch.nan)
    vit.train(False)
    try:
        scored(vit, Source(bank=drawn(50, 1), val=drawn(1, 2), test=drawn(3, 3)))  # the query is rank 0's
    except ValueError as error:
        return str(error)
    return ""


Read = tuple[list[Tensor], list[Tensor], dict[str, Any], int, str]


def read_on_rank(rank: int, world: int) -> Read:
    order = [features.map_images(number, numbered(count), RAW, CPU) for count in ODD]
    return order, *readings(), bank_features_of(rank), refusal(rank)


def test_two_processes_read_what_one_reads(ranks: Ranks) -> None:
    expected, figures = readings()
    for rank, (order, found, its_figures, held, said) in enumerate(ranks(read_on_rank)):
        assert held == (257, 256)[rank]
        assert "diverged" in said
        for count, indices in zip(ODD, order, strict=True):
            assert torch.equal(indices, torch.arange(count))
        for its, ours in zip(found, expected, strict=True):
            assert torch.equal(its, ours), (its - ours).abs().max()
        assert its_figures == figures


def test_the_untouched_backbones_score_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    domain = Source(bank=drawn(210, 1), val=drawn(105, 2), test=drawn(105, 3))
    vit = models.create(models.TINY, num_classes=0)
    calls: list[int] = []

    def counting(model: Vit, images: Tensor) -> Tensor:
        calls.append(1)
        return models.features(model, images)

    monkeypatch.setattr(features, "features", counting)

    def score(queries: data.Split) -> SourceScore:
        return retention.untouched_score(vit, domain, queries, TINY_PREPROCESS, CPU)

    first = score(domain.val)
    assert len(calls) == 2
    assert first == retention.source_score(vit, domain, domain.val, TINY_PREPROCESS, CPU)
    calls.clear()
    assert score(domain.val) == first
    assert calls == []
    score(domain.test)
    assert len(calls) == 1  # the queries; the bank's features are read
    with torch.no_grad():
        vit.norm.bias.add_(1.0)
    calls.clear()
    score(domain.val)
    assert len(calls) == 2


@pytest.mark.parametrize(("size", "enough"), [(0, False), (1, False), (19, False), (20, True), (4000, True)])
def test_a_bank_that_is_smaller_than_k_is_refused(size: int, enough: bool) -> None:
    """Source accuracy is that of k = 20, wherever it stands; no smaller k takes its place."""
    bank = drawn(size, seed=0) if size else Images(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0).long())
    source = Source(bank, drawn(5, seed=1), drawn(5, seed=2))
    if enough:
        retention.check_bank(size)
        return
    with pytest.raises(ValueError, match=rf"bank holds {size} images, and k-NN with k = 20 needs at least 20: raise"):
        retention.source_score(tiny(), source, source.val, TINY_PREPROCESS, CPU)


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], SourceScore]:
    """The untouched backbone's score, with a cache folder of its own."""
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())
    domain = Source(bank=drawn(105, 1), val=drawn(42, 2), test=drawn(1, 3))
    vit = models.create(models.TINY, num_classes=0)
    return lambda: retention.untouched_score(vit, domain, domain.val, TINY_PREPROCESS, CPU)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:30],
    "edited": lambda content: content[:9] + bytes([content[9] ^ 1]) + content[10:],
    "another value": lambda content: b"{}",
    "zeroed": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["*.json", "bank*"])
def test_damaged_measurements_are_made_again(
    kind: str, damage: str, before: Callable[[], SourceScore], tmp_path: Path
) -> None:
    expected = before()
    (kept,) = (tmp_path / "cache").rglob(kind)
    kept.write_bytes(DAMAGE[damage](kept.read_bytes()))
    if kind != "*.json":  # where the score is known the bank is not asked for
        next((tmp_path / "cache").rglob("*.json")).unlink()
    with pytest.warns(RuntimeWarning, match="is damaged, or of an earlier version: it is computed again"):
        assert before() == expected


@pytest.mark.parametrize("value", ['{"20": 95.2}', "[]", "null", '{"20": ["a", "b"]}', '{"x": [1.0, 2.0]}', "{}"])
def test_what_is_no_score_is_not_taken_for_one(value: str, before: Callable[[], SourceScore], tmp_path: Path) -> None:
    expected = before()
    (kept,) = (tmp_path / "cache").rglob("*.json")
    assert cache.write(str(kept.relative_to(tmp_path / "cache")), value.encode())
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert before() == expected


def test_without_a_cache_folder_everything_is_measured(before: Callable[[], SourceScore], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.warns(RuntimeWarning, match="cannot be written to") as said:
        assert before() == before()
    assert len(said) == 1


def key(vit: Any) -> str:
    return cache.digest(circumstances.circumstances(vit, CPU))


def family(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    """An architecture of timm's whose parameters are all alike: equal shapes are equal tensors."""
    small = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 0}
    vit = timm.create_model(name, **{**small, **options})
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.fill_(0.1)
    return vit.eval()


def test_a_key_holds_what_a_model_does_with_its_tensors() -> None:
    plain, quick = (family(f"vit_base_patch32_clip_{kind}224") for kind in ("", "quickgelu_"))
    assert all(map(torch.equal, plain.state_dict().values(), quick.state_dict().values()))
    others = [family(num_heads=4), family(act_layer=torch.nn.ReLU), family(global_pool="avg", fc_norm=False)]
    others += [family(norm_layer=torch.nn.LayerNorm), family("beit_base_patch16_224")]
    different = [family(), plain, quick, *others]
    assert len({key(vit) for vit in different}) == len(different)
    assert key(family()) == key(family().train())


def test_a_key_holds_buffers_that_no_checkpoint_holds() -> None:
    first, second = (family("vit_small_patch16_dinov3", embed_dim=32) for _ in range(2))
    assert key(first) == key(second)
    hidden = [value for name, value in second.named_buffers() if name not in second.state_dict()]
    hidden[0].add_(1)
    assert key(first) != key(second)


@pytest.mark.parametrize("changed", ["torch", "torchvision", "timm", "PIL", "numpy", "codec", "code", "machine"])
def test_a_key_holds_versions_and_code(changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vit = family()
    usual = key(vit)
    if changed == "codec":
        monkeypatch.setattr(PIL.features, "version", lambda name: f"another {name}")
    elif changed == "code":
        (tmp_path / "parallel.py").write_text("# another")
        monkeypatch.setattr(circumstances, "PACKAGE", tmp_path)
    elif changed == "machine":
        monkeypatch.setattr(torch.__config__, "show", lambda: "another processor")
    else:
        monkeypatch.setattr(importlib.import_module(changed), "__version__", "another")
    assert key(vit) != usual
