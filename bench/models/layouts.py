"""Published layouts of weights: where in a file the backbone is, and what its tensors are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.spec import SpecError

MOCO_ARCHITECTURES = ("vit_small", "vit_base", "vit_conv_small", "vit_conv_base")
"""So MoCo v3 calls its own vision transformers."""

NETWORKS = ("teacher", "student")
"""Self-distillation trains two networks; a file may hold either or both, and the first of these is the default."""

WRAPPERS = ("state_dict", "model")
MOCO = "base_encoder."
"""A checkpoint of MoCo v3 has its backbone below this."""

MOCO_HEADS: Mapping[int, int] = {384: 12, 768: 12}
"""MoCo v3's own vision transformers have, by width, so many heads (``vits.py`` of facebookresearch/moco-v3). Tensors do
not tell: timm's ViT-S has 6, and takes them."""

PREFIXES = ("module.", "_orig_mod.", "backbone.", MOCO)
"""Of DDP, of ``torch.compile``, of DINO and iBOT, and of MoCo v3, whose momentum encoder and predictor are left out."""

MODELS = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.")
"""Hugging Face's models with a head have the backbone under such a name."""

HUGGING_FACE: Mapping[str, str] = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.(mask_token|register_tokens)": r"\1",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.(.+)": r"patch_embed.proj.\1",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.+)": r"blocks.\1.attn.proj.\2",
    r"encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.(.+)": r"blocks.\1.norm1.\2",
    r"encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.(.+)": r"blocks.\1.norm2.\2",
    r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
    r"encoder\.layer\.(\d+)\.(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.(.+)": r"blocks.\1.mlp.fc1.\2",
    r"encoder\.layer\.(\d+)\.(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.(.+)": r"blocks.\1.mlp.fc2.\2",
    r"layernorm\.(.+)": r"norm.\1",
}
"""Names in Hugging Face's ViT, DeiT and DINOv2, and timm's or the authors' own for them."""

QUERY = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(.+)")


def backbone_part(content: Mapping[str, Any], network: str | None) -> dict[str, Any]:
    """The backbone's tensors of a file, in a layout that timm's own readers know.

    Args:
        content: of the file.
        network: ``teacher`` or ``student``; by default the teacher where there are such.

    Raises:
        SpecError: the file does not hold that network, or the layout is not known here.
    """
    state = _unwrapped(content)
    networks = {name: inside for name in NETWORKS if (inside := _inside(state, name))}
    if networks or network is not None:
        state = _unwrapped(_chosen(networks, network))
    if any(not isinstance(key, str) for key in state):
        raise SpecError("it holds no tensors by name")
    for prefix in PREFIXES:
        state = _below(state, prefix)
    for model in MODELS:
        if any(key.startswith(f"{model}embeddings.") for key in state):
            state = _below(state, model)
    return _of_hugging_face(state) if "embeddings.cls_token" in state else state


def heads_of(content: Mapping[str, Any], width: int) -> int | None:
    """Attention heads of the network in a file, where its layout tells what its tensors do not."""
    # What MoCo v3 writes of its linear classifiers has lost the name, and says which of its models it is.
    is_mocos = _holds_moco(content) or ("state_dict" in content and content.get("arch") in MOCO_ARCHITECTURES)
    return MOCO_HEADS.get(width) if is_mocos else None


def _holds_moco(content: Mapping[str, Any]) -> bool:
    """Whether a file, or a part of it, has a backbone where MoCo v3 puts it."""
    return any(
        isinstance(key, str) and (MOCO in key or (isinstance(value, dict) and _holds_moco(value)))
        for key, value in content.items()
    )


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    return dict(state)


def _chosen(networks: Mapping[str, dict[str, Any]], asked: str | None) -> dict[str, Any]:
    """The network that is asked for, of those in a file."""
    wanted = asked or NETWORKS[0]
    if wanted in networks:
        return networks[wanted]
    if not networks:
        raise SpecError(f"backbone.checkpoint_key = {wanted}, and it holds one network only: leave the key out")
    (there,) = networks
    default = "" if asked else ", which is the default"
    raise SpecError(
        f"it holds a {there} and no {wanted}{default}: ask for the {there} with --set backbone.checkpoint_key={there}"
    )


def _inside(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    own = state.get(name)
    return dict(own) if isinstance(own, dict) else _only(state, f"{name}.")


def _below(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What is below a prefix; everything if nothing is."""
    return _only(state, prefix) or state


def _only(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What is below a prefix, without it."""
    below = {str(key): value for key, value in state.items() if str(key).startswith(prefix)}
    return {key.removeprefix(prefix): value for key, value in below.items()}


def _of_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of Hugging Face's under the names that timm's readers know; queries, keys and values are fused."""
    if not any(QUERY.fullmatch(key) for key in state):
        raise SpecError(
            "it has the layout of a model of Hugging Face's transformers that is not known here (ViT, DeiT and DINOv2 "
            "are): convert its keys to timm's names"
        )
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if match := QUERY.fullmatch(key):
            parts = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            if missing := [part for part in parts if part not in state]:
                raise SpecError(f"it has the layout of Hugging Face's transformers, and lacks {missing[0]}")
            found[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat([state[part] for part in parts])
        elif not re.fullmatch(r"encoder\.layer\.\d+\.attention\.attention\.(key|value)\..+", key):
            found[_renamed(key)] = value
    if "register_tokens" in found:  # by the mask token timm's reader knows the layout in which such are converted
        found.setdefault("mask_token", torch.zeros(1))
    return found


def _renamed(key: str) -> str:
    for pattern, name in HUGGING_FACE.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return key
