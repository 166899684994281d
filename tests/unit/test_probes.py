"""The weighted k-NN against a direct transcription of its definition."""

from __future__ import annotations

import math

import pytest
import torch

from bench import probes


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
        cosine = sorted(((float(query @ row), i) for i, row in enumerate(unit)), reverse=True)[:k]
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
    found = probes.knn_accuracy(bank, bank_labels, queries, labels, ks=(1, 10, 20, 200))
    for k, scores in found.items():
        assert scores == pytest.approx(by_definition(bank, bank_labels, queries, labels, k, 0.07))


def test_temperature_matters() -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 21)
    for temperature in (0.01, 1.0):
        found = probes.knn_accuracy(bank, bank_labels, queries, labels, ks=(50,), temperature=temperature)
        assert found[50] == pytest.approx(by_definition(bank, bank_labels, queries, labels, 50, temperature))


def test_chunks_and_shards_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clusters(500, 130, 21)
    whole = probes.knn_accuracy(*data)
    monkeypatch.setattr(probes, "CHUNK_ELEMENTS", 2048)
    assert probes.knn_accuracy(*data) == whole


def test_scale_of_the_features_is_irrelevant() -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 21)
    assert probes.knn_accuracy(7 * bank, bank_labels, queries / 3, labels) == probes.knn_accuracy(
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
        probes.knn_accuracy(*clusters(300, 60, 3), **change)  # type: ignore[arg-type]


def test_diverged_features_are_refused() -> None:
    bank, bank_labels, queries, labels = clusters(300, 60, 3)
    queries[3, 2] = float("nan")
    with pytest.raises(ValueError, match="diverged"):
        probes.knn_accuracy(bank, bank_labels, queries, labels)


def test_empty_and_mismatched_inputs_are_refused() -> None:
    bank, bank_labels, queries, labels = clusters(30, 6, 3)
    with pytest.raises(ValueError, match="0 images"):
        probes.knn_accuracy(bank, bank_labels, queries[:0], labels[:0], ks=(5,))
    with pytest.raises(ValueError, match="one label an image"):
        probes.knn_accuracy(bank, bank_labels[:-1], queries, labels, ks=(5,))
    with pytest.raises(ValueError, match="features must be"):
        probes.knn_accuracy(bank, bank_labels, queries[:, :3], labels, ks=(5,))
