"""What a node needs to train a launch's trials, and what of it is not there.

Ray only promises cores and GPUs. A node with another version of a package would train other numbers, and one without
the data would take trial after trial, and fail them all.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from bench import cache, data, records
from bench.spec import Backbone, Benchmark, SpecError, sentence

PROJECT = Path(__file__).parent.parent

CODE = (".py", ".json", ".safetensors")
"""What of the project's files makes numbers."""

PACKAGES = ("ray", "torch", "torchvision", "timm", "peft", "numpy", "scikit-learn", "pillow")
"""What trials are computed with."""


@dataclass(frozen=True)
class Needs:
    """What the driver has, and a node must have as well.

    Without ``benchmark`` neither data nor weights are looked at: on the driver's own machine it has done so itself.
    """

    versions: Mapping[str, str]
    code: str
    gpu: bool = False
    benchmark: Benchmark | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    """Images of each split, as far as the driver has the data at hand."""
    weights: str | None = None
    """Digest of the weights' file, if they are one."""


class Passing(str):
    """A fault that may be gone at the next look: a GPU that is busy yet, a download that broke off."""


class Seen(NamedTuple):
    """What a rank has seen of its node: Ray's id of it, the host's name, and what it lacks."""

    node: str
    host: str
    lacks: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Host and things."""
        return f"host {self.host} cannot train: {', '.join(self.lacks)}"


class Refused(Exception):
    """Nodes lack something; the message says which hosts lack what, ``may_pass`` whether all of it may come."""

    def __init__(self, message: str, nodes: frozenset[str], may_pass: bool = False) -> None:
        super().__init__(message, nodes, may_pass)
        self.message, self.nodes, self.may_pass = message, nodes, may_pass

    def __str__(self) -> str:
        return self.message


def needs(benchmark: Benchmark | None, *, gpu: bool) -> Needs:
    """What this process has of what trials need.

    Args:
        benchmark: whose data and weights are looked at; None: none are.
        gpu: whether every worker has a GPU.

    Raises:
        SpecError: data or weights cannot be had here, although their files are here.
    """
    if benchmark is None:
        return Needs(versions(), code(), gpu)
    return Needs(versions(), code(), gpu, benchmark, _images(benchmark, at_hand=True), _weights(benchmark.backbone))


def look(wanted: Needs) -> Seen:
    """In a worker: look at its node. What can be downloaded is downloaded, once where the folder is shared."""
    import ray

    return Seen(ray.get_runtime_context().get_node_id(), platform.node(), tuple(lacking(wanted)))


def lacking(wanted: Needs) -> list[str]:
    """What is not here, in words; what comes later needs what comes first, and is only looked at if that is there."""
    faults = [*_other_versions(wanted.versions)]
    if wanted.code != code():
        faults.append("its code of this project is not the launch's (another copy, or changed since the launch began)")
    try:
        records.commit()
    except ValueError as error:  # or every trial would fail with it
        faults.append(_first_line(error))
    if not faults and wanted.gpu:
        faults += _gpu_faults()
    if not faults and wanted.benchmark is not None:
        faults += _faults_of_files(wanted, wanted.benchmark)
    return faults


def versions() -> dict[str, str]:
    """Versions of Python and of what is installed, without what says for which hardware it was built."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def code() -> str:
    """A digest of the project's own code, whether or not it is a git checkout."""
    hashed = hashlib.sha256()
    for path in sorted(PROJECT.rglob("*")):
        if path.suffix in CODE and not path.name.startswith(".") and path.is_file():
            hashed.update(cache.digest([path.relative_to(PROJECT).as_posix(), path.read_bytes()]).encode())
    return hashed.hexdigest()


def _other_versions(wanted: Mapping[str, str]) -> Iterator[str]:
    here = versions()
    for name, version in wanted.items():
        if name not in here:
            yield f"{name} is missing"
        elif here[name] != version:
            yield f"{name} is {here[name]} and the launch's {version}"


def _gpu_faults() -> Iterator[str]:
    import torch
    from ray.train.torch import get_device

    if not torch.cuda.is_available():
        built = torch.version.cuda
        yield "torch sees no GPU" + (f" (it is for CUDA {built}: is the driver too old?)" if built else " (no CUDA)")
        return
    try:
        torch.zeros(1, device=get_device())
    except RuntimeError as error:
        yield Passing(f"its GPU cannot be used ({_first_line(error)})")


def _faults_of_files(wanted: Needs, benchmark: Benchmark) -> Iterator[str]:
    try:
        found: Any = _images(benchmark)
        for name, count in wanted.images.items():
            if found[name] != count:
                yield f"{found[name]} images of {name} and the launch's {count}"
    except (SpecError, OSError) as error:
        names = (benchmark.target.name, benchmark.source.name)
        yield _fault(error, downloads=not all(data.at_hand(name) for name in names))
    try:
        if wanted.weights != _weights(benchmark.backbone):
            yield f"{benchmark.backbone.weights} is not the launch's"
    except (SpecError, OSError) as error:
        yield _fault(error, downloads=wanted.weights is None)


def _fault(error: SpecError | OSError, *, downloads: bool) -> str:
    """A fault in words; a download, and a folder of another machine, may answer the next time."""
    text = _first_line(error)
    return Passing(text) if downloads or isinstance(error, OSError) else text


def _images(benchmark: Benchmark, *, at_hand: bool = False) -> dict[str, int]:
    """Images of each split of the data sets, which are downloaded if need be.

    Args:
        at_hand: leave out those that would have to be downloaded.
    """
    from bench import models

    size = models.preprocess(benchmark.backbone).files
    found: dict[str, int] = {}
    for role, name in (("target", benchmark.target.name), ("source", benchmark.source.name)):
        if at_hand and not data.at_hand(name):
            continue
        data.fetch(name)
        if role == "target":
            learned = models.target_of(benchmark, size)
            splits = {"train": learned.train, "val": learned.val, "test": learned.test}
        else:
            domain = models.source_of(benchmark, "search", size)
            splits = {"bank": domain.bank, "val": domain.val, "test": domain.test}
        found |= {f"{role} {name} ({split})": len(images) for split, images in splits.items()}
    return found


def _weights(backbone: Backbone) -> str | None:
    """A digest of the weights' file; None where they are not one: then they are had once, and downloaded if need be."""
    from bench import models

    if backbone.weights not in (None, "random"):
        path = Path(str(backbone.weights))
        models.read_weights(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    models.create(backbone, num_classes=0)
    return None


def _first_line(error: BaseException) -> str:
    return sentence(error).split("\\n")[0]
