"""Frozen parts stay in evaluation mode while the rest is trained, on one process or two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import methods, models, training
from bench.data import Images
from bench.models import CPU, Preprocess
from bench.spec import TrainConfig
from bench.training import Feed, Watch, evaluation_mode, training_mode
from tests.ranks import Ranks

PLAIN = Preprocess(size=8, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def hybrid(**options: Any) -> Any:
    """A vision transformer with a batch norm in its patch embedding, and drop-out everywhere."""
    torch.manual_seed(0)
    dropping = {"drop_rate": 0.5, "pos_drop_rate": 0.5, "proj_drop_rate": 0.5, "drop_path_rate": 0.5}
    vit: Any = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=4, num_heads=2, **{"num_classes": 3, **dropping, **options}
    )
    vit.patch_embed.proj = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.BatchNorm2d(16))
    return vit


def fit(model: nn.Module, *, steps: int = 3, **more: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 3, 8, 8), generator=generator, dtype=torch.uint8)
    config = TrainConfig(steps=steps, batch_size=8, lr=0.1, momentum=0.0)
    feed = Feed(Images(pixels, torch.arange(24) % 3), PLAIN, classes=3)
    training.train(model, feed, config, seed=0, device=CPU, watch=Watch(lambda point: None, **more))


def in_training(vit: nn.Module) -> set[str]:
    """Names of the layers without parts that are in training mode."""
    return {name for name, module in vit.named_modules() if module.training and not list(module.children())}


def test_a_linear_probe_trains_its_head_and_drops_nothing_before_it() -> None:
    vit = methods.load("linear").apply(models.add_head_norm(hybrid()))
    training_mode(vit)
    assert in_training(vit) == {"fc_norm", "head_drop", "head"}
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    fit(vit)
    changed = {name for name, value in vit.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias", "fc_norm.mean", "fc_norm.var"}


def test_blocks_that_are_trained_drop_and_those_that_are_frozen_do_not() -> None:
    vit = methods.load("top_k", k=1).apply(hybrid())
    training_mode(vit)
    assert {name.split(".")[1] for name in in_training(vit) if name.startswith("blocks")} == {"3"}
    assert {"blocks.3.drop_path1", "blocks.3.mlp.drop1"} <= in_training(vit)
    assert {name for name in in_training(vit) if not name.startswith("blocks")} == {"fc_norm", "head_drop", "head"}


def test_what_is_trained_in_whole_is_as_usual() -> None:
    vit = hybrid()
    training_mode(methods.load("full").apply(vit))
    assert all(module.training for module in vit.modules())


def test_low_rank_updates_drop_and_what_they_are_added_to_stays_frozen() -> None:
    vit = methods.load("lora", dropout=0.5).apply(hybrid())
    training_mode(vit)
    found = in_training(vit)
    assert {"blocks.0.attn.qkv.q.lora_dropout.default", "blocks.0.attn.proj_drop", "blocks.1.drop_path1"} <= found
    assert not {"pos_drop", "blocks.0.attn.qkv.q.base_layer", "blocks.0.mlp.drop1", "patch_embed.proj.1"} & found


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_of_which_only_a_part_is_trained_keeps_its_statistics(affine: bool) -> None:
    """As with `lora: bias: all`, or a norm without parameters beside a frozen layer."""
    vit = methods.load("lora", bias="all").apply(hybrid())
    vit.blocks[0].norm1 = nn.Sequential(nn.BatchNorm1d(5, affine=affine), nn.LayerNorm(16))
    vit.blocks[0].norm1[1].requires_grad_(False)
    if affine:
        vit.blocks[0].norm1[0].weight.requires_grad_(False)
    kept = [vit.blocks[0].norm1[0].running_mean, vit.patch_embed.proj[1].running_mean]
    before = [value.clone() for value in kept]
    fit(vit)
    assert all(map(torch.equal, kept, before))
    assert vit.patch_embed.proj[1].bias.requires_grad


def test_a_reading_on_the_way_gives_every_module_its_own_mode_back() -> None:
    vit = methods.load("linear").apply(hybrid())
    training_mode(vit)
    modes = [module.training for module in vit.modules()]
    with evaluation_mode(vit):
        assert not any(module.training for module in vit.modules())
    assert [module.training for module in vit.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluation_mode(vit):
        raise ZeroDivisionError
    assert [module.training for module in vit.modules()] == modes


def test_a_frozen_beginning_computes_the_same_at_every_step() -> None:
    vit = methods.load("top_k", k=2).apply(hybrid(drop_rate=0.0))
    tail = models.Tail(vit)
    images = torch.randn(4, 3, 8, 8)
    training_mode(tail)
    with torch.no_grad():
        assert torch.equal(tail.beginning(images), tail.beginning(images))
        assert not torch.equal(vit(images), vit(images))


def test_weights_between_two_models_have_statistics_between_theirs() -> None:
    before, vit = hybrid(num_classes=0), hybrid()
    method = methods.load("wise_ft", alphas=[0.25])
    vit.load_state_dict(before.state_dict(), strict=False)
    fit(method.apply(vit))
    ((_, between),) = method.after(vit, before)
    old, new = before.state_dict(), vit.state_dict()
    name = "patch_embed.proj.1.running_var"
    assert not torch.equal(new[name], old[name])
    assert torch.allclose(between.state_dict()[name], 0.75 * old[name] + 0.25 * new[name])
    assert between.state_dict()["patch_embed.proj.1.num_batches_tracked"] == 3


def statistics(rank: int, world: int) -> list[Tensor]:
    """Buffers after two frozen and two full trainings of this rank's share."""
    found = []
    for name in ("linear", "full"):
        vit = methods.load(name).apply(hybrid(drop_rate=0.0, drop_path_rate=0.0))
        fit(DistributedDataParallel(vit, broadcast_buffers=False))
        found += [value.clone() for value in vit.patch_embed.proj[1].buffers()]
    return found


def test_all_ranks_end_with_the_same_statistics(ranks: Ranks) -> None:
    first, second = ranks(statistics)
    assert all(map(torch.equal, first, second))
    assert not first[0].any()  # the linear probe's mean is as it began
    assert first[3].any()
