"""A vision transformer in two parts: the first blocks, which no training changes, and what comes after them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from bench import cache
from bench.models.described import described, values_of
from bench.spec import SpecError
from bench.vit import Vit, as_module

Read = Literal["logits", "features"]
"""What is wanted of a model: its head's logits, or the features that are probed (see :func:`bench.models.features`)."""

LATER = ("blocks", "norm", "fc_norm", "head_drop", "head", "attn_pool")
"""These parts of timm's VisionTransformer come after the embeddings."""


def missing(vit: Vit) -> str:
    """What a model has not, so that it cannot be taken apart; empty if it can."""
    if type(vit) is not VisionTransformer:  # a subclass may do more, or something else, at any place
        return f"a plain timm VisionTransformer, not a {type(vit).__name__}"
    for name, module in vit.named_modules():
        early = name.split(".")[0] not in LATER or f"{name}.".startswith("blocks.0.")
        if early and (own := _altered(module)):
            return f"modules as timm makes them, and {name or 'the model'} has {own}"
    if trained := [n for n, p in vit.named_parameters() if p.requires_grad and n.split(".")[0] not in LATER]:
        return f"a frozen beginning, and this method trains {trained[0]}"
    if not _frozen(vit):
        return "frozen blocks at the beginning, and this method trains the first one"
    return ""


def _altered(module: nn.Module) -> str:
    """What somebody has given a single module beside its class, so that calling its parts is not the same."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "a hook"
    return next((f"a {name} of its own" for name in vars(module) if name.startswith("forward")), "")


def _frozen(vit: Vit) -> int:
    """How many of the first blocks hold nothing that is trained, or altered."""
    for index, block in enumerate(vit.blocks):
        if any(p.requires_grad for p in block.parameters()) or any(map(_altered, block.modules())):
            return index
    return len(vit.blocks)


class Tail(nn.Module):
    """What comes after the frozen beginning of a vision transformer; shares the modules, and copies none.

    ``depth``: so many of the first blocks are frozen. ``whole``: all of them and the final norm are; then a feature of
    each image is all that has to be kept of it, and not its tokens.
    """

    def __init__(self, vit: Vit) -> None:
        """Look for the frozen beginning.

        Raises:
            SpecError: there is none, or the parts of this architecture are not known.
        """
        super().__init__()
        if lack := missing(vit):
            raise SpecError(f"train.views needs {lack}")
        self.vit: Any = vit  # known to be timm's own VisionTransformer
        self.depth = _frozen(vit)
        self.whole = self.depth == len(vit.blocks) and not any(
            p.requires_grad for m in self._later() for p in m.parameters()
        )

    def _later(self) -> list[nn.Module]:
        """What makes pooled features of tokens."""
        return [part for part in (self.vit.norm, self.vit.attn_pool) if part is not None]

    def forward(self, activations: Tensor) -> Tensor:
        """Activations of :meth:`beginning`, for logits, to logits ``[b, classes]``: what a training step computes.

        Where the head reads the class token alone, the last block's MLP is applied to no other; the sums may differ
        from those of :meth:`logits` in their last bit.
        """
        vit = self.vit
        if self.whole or not self._reads_one_token():
            return self.logits(activations)
        *blocks, last = vit.blocks[self.depth :]
        for block in blocks:
            activations = block(activations)
        activations = activations + last.drop_path1(last.ls1(last.attn(last.norm1(activations))))
        token = activations[:, :1]
        token = token + last.drop_path2(last.ls2(last.mlp(last.norm2(token))))
        logits: Tensor = vit.forward_head(vit.norm(token))
        return logits

    def _reads_one_token(self) -> bool:
        """Whether there is a last block of timm's own, of which the head sees the first token only."""
        vit = self.vit
        if self.depth == len(vit.blocks) or vit.global_pool != "token":
            return False
        last = vit.blocks[-1]
        if type(last) is not Block or any(map(_altered, last.modules())):
            return False
        return not any(isinstance(part, nn.Dropout) and part.p > 0 for part in last.mlp.modules())

    def logits(self, activations: Tensor) -> Tensor:
        """What the model makes of the images, bit for bit."""
        vit = self.vit
        if self.whole:
            pooled: Tensor = vit.head(vit.head_drop(vit.fc_norm(activations)))
            return pooled
        logits: Tensor = vit.forward_head(self._end(activations))
        return logits

    def features(self, activations: Tensor) -> Tensor:
        """Activations of :meth:`beginning`, for features, to features ``[b, d]``, bit for bit."""
        token = activations if self.whole else self._end(activations)[:, 0]
        return self.vit.fc_norm(token) if isinstance(self.vit.norm, nn.Identity) else token

    def reading(self, read: Read) -> Callable[[Tensor], Tensor]:
        """The method that makes what is wanted of activations."""
        return self.logits if read == "logits" else self.features

    def _end(self, tokens: Tensor) -> Tensor:
        """Tokens after the frozen blocks to tokens after the final norm."""
        ended: Tensor = self.vit.norm(self.vit.blocks[self.depth :](tokens))
        return ended

    def beginning(self, images: Tensor, read: Read = "logits") -> Tensor:
        """Normalised images ``[b, 3, h, w]`` to tokens ``[b, t, d]`` or, if the beginning is the whole, ``[b, d]``."""
        vit = self.vit
        return self.beyond(vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))), 0, read)

    def beyond(self, tokens: Tensor, start: int, read: Read = "logits") -> Tensor:
        """The same from the tokens that come out of the first ``start`` blocks."""
        vit = self.vit
        tokens = vit.blocks[start : self.depth](tokens)
        if not self.whole:
            return tokens
        ended = vit.norm(tokens)
        pooled: Tensor = vit.pool(ended) if read == "logits" else ended[:, 0]
        return pooled

    def shape(self) -> tuple[int, ...]:
        """Shape of one image's activations."""
        vit = self.vit
        return (vit.embed_dim,) if self.whole else (vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.embed_dim)

    @functools.cached_property
    def keys(self) -> list[str]:
        """Of everything that makes the tokens before block 0, 1, ... and after the last frozen one."""
        vit = as_module(self.vit)
        early = nn.ModuleDict({name: part for name, part in vit.named_children() if name not in LATER})
        own = [value for _, value in (*vit.named_parameters(recurse=False), *vit.named_buffers(recurse=False))]
        found = [cache.digest([*described(vit, recurse=False), *values_of(own), *described(early)])]
        for block in self.vit.blocks[: self.depth]:
            found.append(cache.digest([found[-1], *described(block)]))
        return found

    def key(self, read: Read) -> str:
        """Of everything that makes the activations."""
        if not self.whole:
            return self.keys[-1]
        return cache.digest([self.keys[-1], read, *(text for part in self._later() for text in described(part))])


def split(vit: Vit) -> Tail | None:
    """The part of a model that comes after its frozen beginning; None if it cannot be taken apart, or has none."""
    return None if missing(vit) else Tail(vit)
