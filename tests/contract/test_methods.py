"""What every method promises, tested over every file of bench/methods."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch.nn.parallel import DistributedDataParallel

from bench import backbones, methods

# Hyper-parameters to try besides the defaults. A method that is not named here is tested with its defaults.
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "block_expansion": [{"p": p} for p in (1, 2, 4, 12)],
    "lora": [
        {"rank": 2, "alpha": 4.0},
        {"targets": ["qkv"]},
        {"targets": ["q", "k", "v", "proj", "fc1", "fc2"]},
        {"bias": "all"},
    ],
    "top_k": [{"k": 1}, {"k": 12}],
}
CASES = [(name, values) for name in methods.names() for values in [{}, *EXAMPLES.get(name, [])]]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in values.items())]) for name, values in CASES]
every_case = pytest.mark.parametrize(("name", "values"), CASES, ids=IDS)
every_method = pytest.mark.parametrize("name", methods.names())


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def micro_vit(depth: int = 12, *, seed: int = 0) -> Any:
    """A small vision transformer whose every tensor, biases and norms too, is away from its usual initial value."""
    torch.manual_seed(seed)
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=depth, num_heads=2, num_classes=5)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit.eval()


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 5


def train(vit: Any, steps: int = 3, lr: float = 0.05) -> Any:
    images, labels = batch()
    optimizer = torch.optim.SGD([p for p in vit.parameters() if p.requires_grad], lr=lr)
    vit.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(vit(images), labels).backward()
        optimizer.step()
    return vit.eval()


@every_case
def test_step_0_changes_nothing(name: str, values: dict[str, Any]) -> None:
    images, _ = batch()
    vit = micro_vit()
    with torch.inference_mode():
        features, logits = backbones.features(vit, images), vit(images)
        applied = methods.load(name, **values).apply(copy.deepcopy(vit)).eval()
        assert (backbones.features(applied, images) - features).abs().max() < 1e-5
        assert (applied(images) - logits).abs().max() < 1e-5


def test_block_expansion_is_the_identity_exactly() -> None:
    images, _ = batch()
    vit = micro_vit()
    with torch.inference_mode():
        features = backbones.features(vit, images)
        for p in (1, 2, 3, 4, 6, 12):
            applied = methods.load("block_expansion", p=p).apply(copy.deepcopy(vit)).eval()
            assert torch.equal(backbones.features(applied, images), features)


@every_case
def test_only_what_is_trainable_changes(name: str, values: dict[str, Any]) -> None:
    vit = methods.load(name, **values).apply(micro_vit())
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    trainable = {key for key, parameter in vit.named_parameters() if parameter.requires_grad}
    after = train(vit).state_dict()
    assert {"head.weight", "head.bias"} <= trainable
    for key, value in before.items():
        if key not in trainable:
            assert torch.equal(after[key], value), f"{key} is frozen, and changed"
        elif not key.endswith(".k.bias"):  # softmax does not see a shift of all keys: its gradient is zero
            assert not torch.equal(after[key], value), f"{key} is trainable, and did not change"


@every_case
def test_the_state_dict_survives_a_file(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    images, _ = batch()
    trained = train(methods.load(name, **values).apply(micro_vit()))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    fresh = methods.load(name, **values).apply(micro_vit(seed=1))
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.inference_mode():
        assert torch.equal(fresh.eval()(images), trained(images))


@every_case
@pytest.mark.parametrize("norm", [False, True], ids=["", "head_norm"])
def test_the_merged_model_is_plain_timm_and_computes_the_same(name: str, values: dict[str, Any], norm: bool) -> None:
    images, _ = batch()
    vit = backbones.add_head_norm(micro_vit()) if norm else micro_vit()
    method = methods.load(name, **values)
    trained = train(method.apply(vit))
    with torch.inference_mode():
        expected = trained(images)
    merged = backbones.fold_head_norm(method.merge(trained))
    plain = micro_vit(depth=len(merged.blocks), seed=1)
    plain.load_state_dict(merged.state_dict())  # strict: exactly timm's keys
    with torch.inference_mode():
        assert (plain(images) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "values", "count"),
    [
        ("full", {}, 85_875_556),
        ("top_k", {"k": 3}, 21_340_516),
        ("linear", {}, 76_900),
        ("lora", {"rank": 4}, 224_356),
        ("lora", {"rank": 8}, 371_812),
        ("lora", {"rank": 16}, 666_724),
        ("block_expansion", {"p": 1}, 7_164_772),
        ("block_expansion", {"p": 2}, 14_252_644),
        ("block_expansion", {"p": 3}, 21_340_516),
        ("block_expansion", {"p": 4}, 28_428_388),
    ],
)
def test_counts_on_vit_base(name: str, values: dict[str, Any], count: int) -> None:
    import timm

    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224", num_classes=100)
    assert methods.trainable_parameters(methods.load(name, **values).apply(vit)) == count


def ddp_step(rank: int, world: int, folder: str) -> None:
    """One backward pass of every method on this rank's half of the batch; rank 0 saves the gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    images, labels = batch()
    for name in methods.names():
        vit = backbones.add_head_norm(methods.load(name).apply(micro_vit())).train()
        model = DistributedDataParallel(vit, broadcast_buffers=False)
        F.cross_entropy(model(images[rank::world]), labels[rank::world]).backward()
        if rank == 0:
            save_file(gradients(vit), f"{folder}/{name}.safetensors")
    dist.destroy_process_group()


def gradients(vit: Any) -> dict[str, torch.Tensor]:
    found = {key: p.grad for key, p in vit.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in found.values()), "a trainable parameter is unused"
    return found


@pytest.mark.slow
def test_a_ddp_step_of_two_processes_equals_one(tmp_path: Path) -> None:
    mp.spawn(ddp_step, args=(2, str(tmp_path)), nprocs=2)
    images, labels = batch()
    for name in methods.names():
        vit = backbones.add_head_norm(methods.load(name).apply(micro_vit())).train()
        F.cross_entropy(vit(images), labels).backward()
        found = load_file(tmp_path / f"{name}.safetensors")
        for key, gradient in gradients(vit).items():
            assert torch.allclose(found[key], gradient, atol=1e-6), f"{name}: {key}"


@every_method
def test_a_method_is_a_frozen_value(name: str) -> None:
    method = methods.load(name)
    assert dataclasses.is_dataclass(method)
    assert hash(method) == hash(methods.load(name))
    assert pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.anything = 1  # type: ignore[attr-defined]
    assert methods.summary(name)
    assert all(about.doc for about in methods.fields(name).values())


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("lroa", {}, "did you mean 'lora'"),
        ("lora", {"rnk": 4}, "did you mean 'rank'"),
        ("lora", {"rank": 0}, "rank = 0"),
        ("lora", {"rank": "4"}, "rank = '4'"),
        ("lora", {"dropout": 1.0}, "dropout = 1.0"),
        ("lora", {"bias": "some"}, "bias = 'some'"),
        ("lora", {"targets": ["q", "qkv"]}, "name one or the other"),
        ("lora", {"targets": []}, "targets"),
        ("top_k", {"k": 0}, "k = 0"),
        ("block_expansion", {"p": 1.5}, "p = 1.5"),
    ],
)
def test_bad_values_are_named(name: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        methods.load(name, **values)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("values", [{}, {"targets": ["v"], "alpha": 3.0}, {"targets": ["k", "v"], "bias": "all"}])
def test_lora_computes_what_peft_computes_layer_by_layer(values: dict[str, Any], qkv_bias: bool) -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5, qkv_bias=qkv_bias
    )
    vit = methods.load("lora", rank=3, **values).apply(vit).eval()
    for name, parameter in vit.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    split = vit.blocks[1].attn.qkv
    x = torch.randn(2, 5, 16, requires_grad=True)
    trained = [x, *(p for p in split.parameters() if p.requires_grad)]
    found = split(x)
    expected = torch.cat([split.q(x), split.k(x), split.v(x)], dim=-1)  # peft's own forward passes
    assert (found - expected).abs().max() < 1e-6
    towards = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, trained, towards), torch.autograd.grad(expected, trained, towards), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-5


def test_lora_with_dropout_drops_inputs_while_it_trains_only() -> None:
    vit = methods.load("lora", dropout=0.5).apply(micro_vit())
    for name, parameter in vit.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    images, _ = batch()
    with torch.inference_mode():
        assert torch.equal(vit.eval()(images), vit(images))
        assert not torch.equal(vit.train()(images), vit(images))


def test_what_does_not_fit_the_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"p = 5 .* 12 blocks .*1, 2, 3, 4, 6, 12"):
        methods.load("block_expansion", p=5).apply(micro_vit())
    with pytest.raises(ValueError, match="k = 13 is more than"):
        methods.load("top_k", k=13).check(12)


def test_architectures_without_the_layers_are_refused() -> None:
    vit = micro_vit()
    del vit.blocks[3].mlp.fc2
    with pytest.raises(ValueError, match=r"mlp.fc2"):
        methods.load("block_expansion", p=12).apply(vit)
    with pytest.raises(ValueError, match=r"blocks.3, a Block, has no linear layer 'mlp.fc2'"):
        methods.load("lora", targets=["fc2"]).apply(micro_vit_without_fc2())


def micro_vit_without_fc2() -> Any:
    vit = micro_vit()
    del vit.blocks[3].mlp.fc2
    return vit


def test_methods_are_loaded_without_torch() -> None:
    code = "import sys; from bench import methods; [methods.load(n) for n in methods.names()]; "
    code += "print([m for m in ('torch', 'timm', 'peft', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
