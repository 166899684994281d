"""Short names of backbones, for timm's; known without importing torch or timm."""

from __future__ import annotations

from collections.abc import Mapping

# in1k: pre-trained on ImageNet-21k, then on ImageNet-1k. timm has no such H/14, and L/32 only at 384 pixels.
# CLIP's image towers were trained with quick GELU; timm's names without it build another function from their weights.
ALIASES: Mapping[str, str] = {
    "vit-s16-224-dino": "vit_small_patch16_224.dino",
    "vit-s8-224-dino": "vit_small_patch8_224.dino",
    "vit-b16-224-dino": "vit_base_patch16_224.dino",
    "vit-b8-224-dino": "vit_base_patch8_224.dino",
    "vit-b16-224-in21k": "vit_base_patch16_224.augreg_in21k",
    "vit-b32-224-in21k": "vit_base_patch32_224.augreg_in21k",
    "vit-l16-224-in21k": "vit_large_patch16_224.augreg_in21k",
    "vit-l32-224-in21k": "vit_large_patch32_224.orig_in21k",
    "vit-h14-224-in21k": "vit_huge_patch14_224.orig_in21k",
    "vit-b16-224-in1k": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit-b32-224-in1k": "vit_base_patch32_224.augreg_in21k_ft_in1k",
    "vit-l16-224-in1k": "vit_large_patch16_224.augreg_in21k_ft_in1k",
    "vit-l32-384-in1k": "vit_large_patch32_384.orig_in21k_ft_in1k",
    "vit-b16-224-beit": "beit_base_patch16_224.in22k_ft_in22k",
    "vit-l16-224-beit": "beit_large_patch16_224.in22k_ft_in22k",
    "vit-s14-dinov2": "vit_small_patch14_dinov2.lvd142m",
    "vit-b14-dinov2": "vit_base_patch14_dinov2.lvd142m",
    "vit-l14-dinov2": "vit_large_patch14_dinov2.lvd142m",
    "vit-g14-dinov2": "vit_giant_patch14_dinov2.lvd142m",
    "vit-s14-dinov2-reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit-b14-dinov2-reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "vit-l14-dinov2-reg": "vit_large_patch14_reg4_dinov2.lvd142m",
    "vit-g14-dinov2-reg": "vit_giant_patch14_reg4_dinov2.lvd142m",
    "vit-s16-dinov3": "vit_small_patch16_dinov3.lvd1689m",
    "vit-b16-dinov3": "vit_base_patch16_dinov3.lvd1689m",
    "vit-l16-dinov3": "vit_large_patch16_dinov3.lvd1689m",
    "vit-b16-224-mae": "vit_base_patch16_224.mae",
    "vit-l16-224-mae": "vit_large_patch16_224.mae",
    "vit-h14-224-mae": "vit_huge_patch14_224.mae",
    "vit-b32-224-clip": "vit_base_patch32_clip_quickgelu_224.openai",
    "vit-b16-224-clip": "vit_base_patch16_clip_quickgelu_224.openai",
    "vit-l14-224-clip": "vit_large_patch14_clip_quickgelu_224.openai",
}
"""Each of timm's names is one that timm has pre-trained weights for."""
