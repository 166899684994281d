"""What a data set is made of: splits, targets and sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from bench.spec import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Role = Literal["source", "target"]
Policy = Literal["error", "skip"]


class Split(Protocol):
    """Labelled images, in memory or not."""

    @property
    def labels(self) -> Tensor:
        """int64 ``[n]``, from 0."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """The images at some indices (int64 ``[b]``): uint8 ``[b, 3, h, w]``, on the CPU."""

    def select(self, indices: NDArray[np.int64]) -> Split:
        """Some of the images as a split of their own."""

    def fingerprint(self) -> str:
        """A text that is another one for other images, other labels or another order."""

    def identity(self) -> str:
        """As the fingerprint, but the same for a copy in another place: did two models see the same images?"""


class InMemory(Protocol):
    """Images that are whole when they are taken."""

    def take(self, indices: Tensor) -> Tensor:
        """uint8 ``[b, 3, h, w]``."""


@runtime_checkable
class InFiles(InMemory, Protocol):
    """Images that are cropped as they are decoded, out of the whole picture, and take a while."""

    @property
    def kept(self) -> bool:
        """Whether ``take`` decodes an image only once."""

    def sizes(self, indices: Tensor) -> Tensor:
        """Height and width of the pictures, ``[b, 2]``."""

    def take_crops(self, indices: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
        """The images, cropped as :class:`bench.training.augment.Crops` says: uint8 ``[b, 3, h, w]``."""


@dataclass(frozen=True)
class Request:
    """What a data set is to be built like."""

    argument: str | None
    """What stands behind the colon of its name."""
    size: Size
    """What the backbone wants; only images that are decoded from files heed it."""
    bad_images: Policy
    """What an image file that cannot be read does; only images that are decoded from files heed it."""
    keep_decoded: bool = False
    """Whether pictures are kept decoded on disk; only images that are decoded from files heed it."""


@dataclass(frozen=True)
class Images:
    """Labelled images in memory: ``images`` uint8 ``[n, 3, h, w]``, ``labels`` int64 ``[n]`` from 0."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """The images at some indices: uint8 ``[b, 3, h, w]``."""
        return self.images[indices]

    def select(self, indices: NDArray[np.int64]) -> Images:
        """Some of the images as a split of their own."""
        import torch

        chosen = torch.from_numpy(indices)
        return Images(self.images[chosen], self.labels[chosen])

    @cached_property
    def _digest(self) -> str:
        from bench.cache import digest

        return digest([str(self.images.shape), self.images.contiguous().numpy().data, self.labels.numpy().tobytes()])

    def fingerprint(self) -> str:
        """See :meth:`Split.fingerprint`; of the pixels themselves."""
        return self._digest

    def identity(self) -> str:
        """See :meth:`Split.identity`."""
        return self.fingerprint()


@dataclass(frozen=True)
class Target:
    """What a backbone is fine-tuned on. The three splits share no image; only ``train`` is trained on."""

    train: Split
    val: Split
    test: Split
    num_classes: int
    class_names: Sequence[str] = ()
    """A name for every class, or none at all."""


@dataclass(frozen=True)
class Source:
    """What a backbone was pre-trained on: the k-NN ``bank``, and queries for the search and for the confirmation."""

    bank: Split
    val: Split
    test: Split
    class_names: Sequence[str] = ()
    """A name for every class, or none at all."""
