"""Seeded, stratified splits: every class in every part, no image in two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED = 0
"""Every choice of images is made with this seed: it belongs to the data, not to a trial."""


def stratified(labels: NDArray[np.int64], sizes: Sequence[int], *, seed: int = SEED) -> list[NDArray[np.int64]]:
    """Split indices into parts of exactly the given sizes, each with the classes in the whole's proportions.

    Args:
        labels: class of every image, ``[n]``.
        sizes: images per part; together at most n, what is left over is in no part.
        seed: of the shuffling.

    Returns:
        One sorted index array a part; the parts are disjoint.

    Raises:
        ValueError: the parts are larger than the whole.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"cannot take {sum(sizes)} of {len(labels)} images")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    # Each image's relative place within its class, in shuffled order: sorting by it deals all classes out evenly.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    dealt = np.argsort(place, kind="stable")
    ends = np.cumsum(sizes)
    return [np.sort(dealt[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def balanced(labels: NDArray[np.int64], per_class: int, *, seed: int = SEED) -> NDArray[np.int64]:
    """Sorted indices of at most ``per_class`` images of every class, chosen by the seed."""
    order = np.random.default_rng(seed).permutation(len(labels))
    own = labels[order]
    return np.sort(np.concatenate([order[own == label][:per_class] for label in np.unique(own)]))
