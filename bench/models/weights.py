"""Weights: the embedded ones, those of a file in any published layout, timm's own, or random ones."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.models.architectures import options, plain, timm_name
from bench.spec import Backbone, SpecError

if TYPE_CHECKING:
    from bench.vit import Vit

ASSETS = Path(__file__).parent.parent / "assets"

HEADS = ("head.", "head_dist.", "fc.", "mask_token")
"""A checkpoint may hold, or lack, these beside the backbone."""

RANDOM_SEED = 0
"""Random weights stand for one backbone, the same in every trial and every worker, whatever a trial's seed."""


def create(backbone: Backbone, *, num_classes: int) -> Vit:
    """A pre-trained timm vision transformer with a fresh head, on the CPU.

    Its weights are the embedded ones for ``tiny``; else those of the file ``backbone.weights``, always the same random
    ones if that is ``random``, or timm's own, which are downloaded once.

    Raises:
        SpecError: there is no such backbone, its weights cannot be had, or they do not fit.
    """
    if backbone.weights == "random":
        return _randomise(plain(backbone, num_classes=num_classes), backbone)
    if backbone.weights is not None:
        return _load(plain(backbone, num_classes=num_classes), Path(backbone.weights))
    if backbone.name == "tiny":
        return _load(plain(backbone, num_classes=num_classes), ASSETS / "tiny.safetensors")
    return _download(backbone, num_classes)


def _randomise(vit: Vit, backbone: Backbone) -> Vit:
    """Give a model the one set of random weights that its backbone has; the head is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        vit.load_state_dict(plain(backbone, num_classes=0).state_dict(), strict=False)
    return vit


def _download(backbone: Backbone, num_classes: int) -> Vit:
    vit = plain(backbone, num_classes=num_classes)  # says what is wrong with the name before anything is downloaded
    return _fill(vit, _downloaded(backbone), f"of timm's {backbone.name!r}")


@functools.lru_cache(maxsize=1)
def _downloaded(backbone: Backbone) -> dict[str, Tensor]:
    """timm's own weights, without a head; kept, so that not every trial asks the hub for them."""
    import timm

    name = timm_name(backbone.name)
    try:
        with torch.random.fork_rng(devices=[]):  # asked for by the first trial only, whose draws it must not shift
            vit = timm.create_model(name, pretrained=True, num_classes=0, **options(backbone, None))
    except (OSError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(
            f"the weights of {name!r} cannot be downloaded ({first}); fetch them on another machine and name the file "
            f"with --weights, or use --weights random"
        ) from None
    state: dict[str, Tensor] = vit.state_dict()
    return state


def _load(vit: Vit, path: Path) -> Vit:
    """Load a local file into the architecture; the head may be missing."""
    state = _backbone_part(read_weights(path))
    if strange := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise SpecError(f"the weights in {path} do not fit: its {strange[0]!r} is no tensor, and no layout known here")
    try:
        state = _filter(vit)(state, vit)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # of another architecture
        reason = _faults(state, vit) or f"timm cannot read them as those of a {type(vit).__name__}: {error}"
        raise SpecError(f"the weights in {path} do not fit: {reason}") from None
    return _fill(vit, state, f"in {path}")


def _fill(vit: Vit, state: Mapping[str, Tensor], where: str) -> Vit:
    """Give a model weights in its own layout; its head stays as it is."""
    state = {key: value.float() for key, value in state.items() if not key.startswith(HEADS)}
    if faults := _faults(state, vit):
        raise SpecError(f"the weights {where} do not fit: {faults}")
    vit.load_state_dict(state, strict=False)
    return vit


def _faults(state: Mapping[str, Tensor], vit: Vit) -> str:
    """How weights differ from what an architecture needs beside its head; empty if they do not."""
    own = {key: value for key, value in vit.state_dict().items() if not key.startswith(HEADS)}
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own and not key.startswith(HEADS)]
    misshapen = [
        f"{key}: {_shape(state[key])} for {_shape(value)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if not (missing or unexpected or misshapen):
        return ""
    return ", ".join([_some("missing", missing), _some("unexpected", unexpected), _some("misshapen", misshapen)])


def _filter(vit: Vit) -> Any:
    """timm's own reader of published layouts for this architecture; it also resamples position embeddings."""
    from timm.models import vision_transformer

    module = importlib.import_module(type(vit).__module__)
    return getattr(module, "checkpoint_filter_fn", vision_transformer.checkpoint_filter_fn)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape))


def _some(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return f"{len(keys)} {what} keys" + (f" ({shown})" if keys else "")


def read_weights(path: Path) -> dict[str, Any]:
    """The content of a safetensors or a torch file, without running any code that is pickled in it.

    Raises:
        SpecError: the file is missing, damaged, or holds more than weights.
    """
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise SpecError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"{path} cannot be read as weights: {first}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path} holds no state dict but a {type(content).__name__}")
    return content


def _backbone_part(state: dict[str, Any]) -> dict[str, Any]:
    """Unwrap the layouts in which backbones are published.

    DINO's full checkpoints (facebookresearch/dino, main_dino.py) hold ``student`` and ``teacher``; the teacher is the
    backbone that is evaluated. Its keys start with ``module.`` and ``backbone.``.
    """
    for wrapper in ("teacher", "state_dict", "model"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state
