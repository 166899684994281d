"""Weights: the embedded ones, those of a file in any published layout, timm's own, or random ones."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.models.architectures import options, plain, timm_name
from bench.models.layouts import backbone_part, heads_of
from bench.spec import Backbone, SpecError, read_text

if TYPE_CHECKING:
    from bench.vit import Vit

ASSETS = Path(__file__).parent.parent / "assets"

HEADS = ("head.", "head_dist.", "fc.", "mask_token", "masked_embed", "decoder_", "decoder.", "pooler.", "classifier.")
"""A checkpoint may hold, or lack, these beside the backbone: what classifies, or was needed for pre-training only."""

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
        return _load(plain(backbone, num_classes=num_classes), Path(backbone.weights), backbone.checkpoint_key)
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


def _load(vit: Vit, path: Path, network: str | None = None) -> Vit:
    """Load a local file into the architecture; the head may be missing."""
    content = read_weights(path)
    try:
        state = backbone_part(content, network)
    except SpecError as error:
        raise SpecError(f"the weights in {path} do not fit: {error}") from None
    if fault := _other_heads(vit, content, path):
        raise SpecError(f"the weights in {path} do not fit: {fault}")
    if strange := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise SpecError(f"the weights in {path} do not fit: its {strange[0]!r} is no tensor, and no layout known here")
    if fault := _unusable(state, vit):
        raise SpecError(f"the weights in {path} cannot be used: {fault}")
    try:
        state = _filter(vit)(state, vit)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = _faults(state, vit) or f"timm cannot read them as those of a {type(vit).__name__}: {error}"
        raise SpecError(f"the weights in {path} do not fit: {reason}") from None
    return _fill(vit, state, f"in {path}")


def _other_heads(vit: Vit, content: Mapping[str, Any], path: Path) -> str:
    """What to say if the weights are those of another number of attention heads, which their shapes do not show.

    A checkpoint of Hugging Face's lies beside its ``config.json``, which names the number.
    """
    own = getattr(getattr(vit.blocks[0], "attn", None), "num_heads", None)
    told, where = heads_of(content, vit.num_features), "MoCo v3's vision transformers have"
    config = path.parent / "config.json"
    if told is None and path.suffix in (".safetensors", ".bin") and config.is_file():
        told, where = _heads_by(config), f"{config} says that they have"
    if None in (told, own) or told == own:
        return ""
    return f"{where} {told} attention heads, and this backbone {own}: take one of the same width with {told} heads"


def _heads_by(config: Path) -> int | None:
    """What a configuration of Hugging Face's says; None if it is none."""
    try:
        read = json.loads(read_text(config, most=1_000_000))
    except ValueError:
        return None  # it is somebody else's file
    heads = read.get("num_attention_heads") if isinstance(read, dict) and "model_type" in read else None
    return heads if isinstance(heads, int) else None


def _fill(vit: Vit, state: Mapping[str, Tensor], where: str) -> Vit:
    """Give a model weights in its own layout; its head stays as it is."""
    state = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    if fault := _unusable(state, vit):
        raise SpecError(f"the weights {where} cannot be used: {fault}")
    if faults := _faults(state, vit):
        raise SpecError(f"the weights {where} do not fit: {faults}")
    vit.load_state_dict(state, strict=False)
    return vit


def _unusable(state: Mapping[str, Tensor], vit: Vit) -> str:
    """Which tensor of a backbone holds something else than numbers; empty if none does."""
    own = vit.state_dict()
    for key, value in state.items():
        if key.startswith(HEADS):
            continue
        if not value.is_floating_point():
            if key in own and own[key].is_floating_point():
                return f"its {key!r} holds {str(value.dtype).removeprefix('torch.')}, not floating-point numbers"
        elif not value.float().isfinite().all():
            return f"its {key!r} holds NaN or infinite values"
    return ""


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


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in one line."""
    if named := re.search(r"(?:GLOBAL|global|class|function) `?([\w.]+)`?", str(error)):
        return (
            f"it holds more than weights, a {named[1]}, and what is pickled in a file is not executed: save its state "
            f"dict alone"
        )
    if isinstance(error, UnpicklingError):
        return "it is damaged, or was not written by torch.save"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _some(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return f"{len(keys)} {what} keys" + (f" ({shown})" if keys else "")


def read_weights(path: Path) -> dict[str, Any]:
    """The content of a safetensors or a torch file, without running any code that is pickled in it.

    The arguments of a training script may lie beside the weights, as DINO, iBOT and MAE save them.

    Raises:
        SpecError: the file is missing, damaged, or holds objects of other classes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise SpecError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise SpecError(f"{path} cannot be read as weights: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path} holds no state dict but a {type(content).__name__}")
    return content
