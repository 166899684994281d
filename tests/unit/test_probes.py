"""The weighted k-NN against two transcriptions of its definition, in blocks, and put together from shards."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from bench.measuring import knn
from tests.ranks import Ranks


def by_definition(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    labels: torch.Tensor,
    k: int,
    t: float,
) -> tuple[float, float]:
    """One query after the other, in plain Python."""
    first = five = 0
    unit = [row / row.norm() for row in bank]
    for query, truth in zip(queries, labels.tolist(), strict=True):
        query = query / query.norm()
        cosine = sorted(((float(query @ row), i) for i, row in enumerate(unit)), key=lambda pair: -pair[0])[:k]
        votes: dict[int, float] = {}
        for similarity, i in cosine:
            label = int(bank_labels[i])
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / t)
        ranked = sorted(votes, key=lambda label: -votes[label])
        first += ranked[0] == truth
        five += truth in ranked[:5]
    return 100 * first / len(labels), 100 * five / len(labels)


def clusters(n: int, m: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=generator)
    labels = torch.randint(classes, (n + m,), generator=generator)
    features = centres[labels] + 1.5 * torch.randn(n + m, 16, generator=generator)
    return features[:n], labels[:n], features[n:], labels[n:]


@pytest.mark.parametrize("classes", [3, 21, 200])
def test_equals_its_definition(classes: int) -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, classes)
    found = knn.knn_accuracy(bank, bank_labels, queries, labels, ks=(1, 10, 20, 200))
    for k, scores in found.items():
        assert scores == pytest.approx(by_definition(bank, bank_labels, queries, labels, k, 0.07))


def test_temperature_matters() -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 21)
    for temperature in (0.01, 1.0):
        found = knn.knn_accuracy(bank, bank_labels, queries, labels, ks=(50,), temperature=temperature)
        assert found[50] == pytest.approx(by_definition(bank, bank_labels, queries, labels, 50, temperature))


def by_full_matrix(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor, k: int, t: float = 0.07
) -> tuple[float, float]:
    """All similarities at once, votes in a table of one-hot labels, as DINO's evaluation has it; in float64."""
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    nearest, index = similarity.sort(dim=1, descending=True, stable=True)
    votes = ((nearest[:, :k].double() / t).exp() * 2**20).round()  # so that sums are exact, and so are their ties
    table = (F.one_hot(bank_labels[index[:, :k]]) * votes[:, :, None]).sum(1)
    ranked = table.sort(dim=1, descending=True, stable=True)
    right = (ranked.indices == labels[:, None]) & (ranked.values > 0)
    return 100 * right[:, 0].double().mean().item(), 100 * right[:, :5].any(1).double().mean().item()


def lattice(n: int, m: int, classes: int) -> tuple[torch.Tensor, ...]:
    """Features whose cosines are exact in float32 and of which many are equal: most neighbourhoods end in a tie."""
    generator = torch.Generator().manual_seed(1)
    signs = 2.0 * torch.randint(2, (n + m, 16), generator=generator) - 1
    labels = torch.randint(classes, (n + m,), generator=generator)
    return signs[:n], labels[:n], signs[n:], labels[n:]


Data = Callable[[int, int, int], tuple[torch.Tensor, ...]]
Blocks = tuple[int, int]


@pytest.fixture(params=[(1024, 8192), (7, 64)], ids=lambda blocks: f"blocks of {blocks[0]} x {blocks[1]}")
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Blocks:
    monkeypatch.setattr(knn, "BLOCK_QUERIES", request.param[0])
    monkeypatch.setattr(knn, "BLOCK_BANK", request.param[1])
    return request.param


@pytest.mark.parametrize("data", [clusters, lattice])
@pytest.mark.parametrize("classes", [1, 4, 40])
def test_blocks_give_what_the_full_matrix_gives(data: Data, classes: int, blocks: Blocks) -> None:
    bank, bank_labels, queries, labels = data(300, 40, classes)
    ks = (1, 2, 10, 100, 299, 300)
    found = knn.knn_accuracy(bank, bank_labels, queries, labels, ks=ks)
    assert found == {k: pytest.approx(by_full_matrix(bank, bank_labels, queries, labels, k)) for k in ks}


def test_equal_similarities_are_taken_in_the_order_of_the_bank(blocks: Blocks) -> None:
    bank, _, queries, _ = lattice(700, 50, 2)
    similarity, index = knn.unpack(knn.nearest(queries, bank, 150))
    expected = (F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T).sort(dim=1, descending=True, stable=True)
    assert torch.equal(index, expected.indices[:, :150])
    assert torch.equal(similarity, expected.values[:, :150])
    same = torch.ones(700, 16)  # what a collapsed model gives
    assert torch.equal(knn.unpack(knn.nearest(same[:3], same, 20))[1], torch.arange(20).expand(3, -1))


def test_zero_has_one_sign() -> None:
    bank = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert knn.unpack(knn.nearest(torch.tensor([[0.0, 1.0]]), bank, 4))[1].tolist() == [[0, 1, 2, 3]]


def test_keys_order_and_return_every_similarity() -> None:
    similarity = torch.tensor([1.0, 1e-30, 0.0, -1e-30, -0.5, -1.0])
    keys = knn._pack(similarity, torch.tensor([7, 6, 2**32 - 1, 4, 3, 0]))
    assert torch.equal(keys.sort(descending=True).values, keys)
    assert keys.min() > knn.LOWEST
    assert [part.tolist() for part in knn.unpack(keys)] == [similarity.tolist(), [7, 6, 2**32 - 1, 4, 3, 0]]


@pytest.mark.parametrize("world", [2, 3, 7, 60])
@pytest.mark.parametrize("data", [clusters, lattice])
def test_shards_put_together_give_what_one_bank_gives(data: Data, world: int) -> None:
    bank, bank_labels, queries, labels = data(300, 50, 21)
    parts = [knn.nearest(queries, bank[rank::world], 100, start=rank, step=world) for rank in range(world)]
    parts.append(knn.nearest(queries, bank[:0], 100))  # a rank without images
    keys = knn.best(torch.cat(parts, 1), 100)
    assert torch.equal(knn.unpack(keys)[1], knn.unpack(knn.nearest(queries, bank, 100))[1])
    ks = (10, 100)
    expected = knn.knn_accuracy(bank, bank_labels, queries, labels, ks=ks)
    assert knn.percentages(knn.hits(keys, bank_labels, labels, ks=ks)) == expected


def test_classes_without_neighbours_are_never_predicted() -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 3)
    found = knn.knn_accuracy(bank, bank_labels, queries, labels + 900, ks=(20,))
    assert found == {20: (0.0, 0.0)}
    assert knn.knn_accuracy(bank, 900 + bank_labels, queries, labels + 900, ks=(20,)) == knn.knn_accuracy(
        bank, bank_labels, queries, labels, ks=(20,)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_other_precisions_are_taken(dtype: torch.dtype) -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 21)
    bank, queries = bank.to(dtype), queries.to(dtype)
    found = knn.knn_accuracy(bank, bank_labels, queries, labels)
    assert found == knn.knn_accuracy(bank.float(), bank_labels, queries.float(), labels)


def test_inputs_are_left_alone() -> None:
    data = clusters(300, 60, 21)
    copies = [part.clone() for part in data]
    knn.knn_accuracy(*data)
    assert all(torch.equal(part, copy) for part, copy in zip(data, copies, strict=True))


def memory_of_a_larger_bank(rank: int, world: int) -> float:
    """MiB that a search in 100,000 images more takes beside them."""
    n, m, d = 120_000, 100, 256
    bank, queries = torch.randn(n, d).half(), torch.randn(m, d).half()
    labels, truth = torch.randint(100, (n,)), torch.randint(100, (m,))
    knn.knn_accuracy(bank[:20_000], labels[:20_000], queries, truth)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    knn.knn_accuracy(bank, labels, queries, truth)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_memory_does_not_grow_with_the_bank(ranks: Ranks) -> None:
    (grown,) = ranks(memory_of_a_larger_bank, world=1)
    assert grown < 50  # a float32 copy of the other 100,000 images would take 98


def test_scale_of_the_features_is_irrelevant() -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 21)
    assert knn.knn_accuracy(7 * bank, bank_labels, queries / 3, labels) == knn.knn_accuracy(
        bank, bank_labels, queries, labels
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ks": (301,)}, "1..300"),
        ({"ks": (0,)}, "1..300"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        knn.knn_accuracy(*clusters(300, 60, 3), **change)  # type: ignore[arg-type]


def test_diverged_features_are_refused() -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 3)
    for part in (queries, bank):
        for bad in (math.nan, math.inf, -math.inf, 3e38):
            part[3, 2] = bad
            with pytest.raises(ValueError, match="diverged"):
                knn.knn_accuracy(bank, bank_labels, queries, labels)
        part[3, 2] = 0


def test_empty_and_mismatched_inputs_are_refused() -> None:
    bank, bank_labels, queries, labels = clusters(30, 6, 3)
    with pytest.raises(ValueError, match="0 images"):
        knn.knn_accuracy(bank, bank_labels, queries[:0], labels[:0], ks=(5,))
    with pytest.raises(ValueError, match="one label an image"):
        knn.knn_accuracy(bank, bank_labels[:-1], queries, labels, ks=(5,))
    with pytest.raises(ValueError, match="features must be"):
        knn.knn_accuracy(bank, bank_labels, queries[:, :3], labels, ks=(5,))
