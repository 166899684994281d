"""What every method promises, tested over every file of bench/methods."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from bench import methods, models
from bench.methods import Step, _peft
from bench.methods._peft import inject
from bench.training import terms_of, training_mode
from tests.ranks import Ranks

DEPTH = 6
"""Blocks of the micro model: three, the default of several methods, divides it."""

# Hyper-parameters to try besides the defaults. A method that is not named here is tested with its defaults.
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "block_expansion": [{"p": p} for p in (1, DEPTH)],
    "lora": [
        {"rank": 2, "alpha": 4.0},
        {"targets": ["qkv"]},
        {"targets": ["q", "k", "v", "proj", "fc1", "fc2"]},
        {"bias": "all"},
    ],
    "top_k": [{"k": 1}, {"k": DEPTH}],
    "wise_ft": [{"alphas": [0.0, 1.0]}],
}
LATE = (*(f"blocks.{index}." for index in range(1, DEPTH + DEPTH)), "norm.", "fc_norm.", "head.")
"""What comes after the first block."""
CASES = [(name, values) for name in methods.names() for values in [{}, *EXAMPLES.get(name, [])]]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in values.items())]) for name, values in CASES]
every_case = pytest.mark.parametrize(("name", "values"), CASES, ids=IDS)
every_method = pytest.mark.parametrize("name", methods.names())


def cases_of(wanted: Callable[[type[methods.Method]], bool]) -> pytest.MarkDecorator:
    """The cases of those methods that promise something, by what their class says."""
    chosen = [(case, one) for case, one in zip(CASES, IDS, strict=True) if wanted(methods.get(case[0]))]
    return pytest.mark.parametrize(("name", "values"), [case for case, _ in chosen], ids=[one for _, one in chosen])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def architecture(depth: int, classes: int) -> Any:
    """A small vision transformer, the same in every process; not to be changed."""
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=depth, num_heads=2, num_classes=classes
    ).requires_grad_(False)


def micro_vit(depth: int = DEPTH, *, seed: int = 0) -> Any:
    """A copy of it whose every tensor, biases and norms too, is away from its usual initial value."""
    vit = copy.deepcopy(architecture(depth, 5))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit.requires_grad_(True).eval()


def untouched() -> Any:
    """The same without a head, frozen: what a method's loss and variants compare with."""
    vit = copy.deepcopy(architecture(DEPTH, 0))
    vit.load_state_dict(micro_vit().state_dict(), strict=False)
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


@cases_of(lambda method: method.identity_at_start)
def test_step_0_changes_nothing(name: str, values: dict[str, Any]) -> None:
    images, _ = batch()
    vit = micro_vit()
    with torch.inference_mode():
        features, logits = models.features(vit, images), vit(images)
        applied = methods.load(name, **values).apply(vit).eval()
        assert (models.features(applied, images) - features).abs().max() < 1e-5
        assert (applied(images) - logits).abs().max() < 1e-5


def test_block_expansion_is_the_identity_exactly() -> None:
    images, _ = batch()
    vit = micro_vit()
    with torch.inference_mode():
        features = models.features(vit, images)
        for p in (1, 2, 3, 6):
            applied = methods.load("block_expansion", p=p).apply(copy.deepcopy(vit)).eval()
            assert torch.equal(models.features(applied, images), features)


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


@cases_of(lambda method: method.mergeable)
def test_the_merged_model_is_plain_timm_and_computes_the_same(name: str, values: dict[str, Any]) -> None:
    """Behind a head norm, which is folded into the head afterwards."""
    images, _ = batch()
    method = methods.load(name, **values)
    trained = train(method.apply(models.add_head_norm(micro_vit())))
    with torch.inference_mode():
        expected = trained(images)
    merged = method.merge(trained)
    with torch.inference_mode():
        assert (merged(images) - expected).abs().max() < 1e-5
    merged = models.fold_head_norm(merged)
    plain = micro_vit(depth=len(merged.blocks), seed=1)
    plain.load_state_dict(merged.state_dict())  # strict: exactly timm's keys
    with torch.inference_mode():
        assert (plain(images) - expected).abs().max() < 1e-5


@every_case
def test_what_comes_after_the_frozen_blocks_is_trained_and_read_alike(name: str, values: dict[str, Any]) -> None:
    """Where the first blocks are frozen, losses and gradients from their activations are those from the images."""
    (images, labels), method = batch(), methods.load(name, **values)
    vit = method.apply(models.add_head_norm(micro_vit()))
    tail = models.split(vit)
    early = [key for key, p in vit.named_parameters() if p.requires_grad and not key.startswith(LATE)]
    assert (tail is None) == bool(early)
    if tail is None:
        return
    with torch.inference_mode():
        vit.eval()
        assert_close(tail.logits(tail.beginning(images)), vit(images))
        assert_close(tail.features(tail.beginning(images, "features")), models.features(vit, images))
    training_mode(vit)
    loss = F.cross_entropy(vit(images), labels)
    loss.backward()
    expected = {key: value.clone() for key, value in gradients(vit).items()}
    vit.zero_grad()
    with torch.no_grad():
        activations = tail.beginning(images)
    shared = F.cross_entropy(tail(activations), labels)
    shared.backward()
    assert shared.item() == pytest.approx(loss.item(), rel=1e-6)
    for key, gradient in gradients(vit).items():
        assert torch.allclose(gradient, expected[key], rtol=1e-5, atol=1e-6), key


@every_case
def test_groups_hold_every_trainable_parameter_once(name: str, values: dict[str, Any]) -> None:
    method = methods.load(name, **values)
    vit = method.apply(models.add_head_norm(micro_vit()))
    groups = method.groups(vit)
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(parameter) for parameter in vit.parameters() if parameter.requires_grad}
    assert all(group.lr_scale > 0 for group in groups)


@cases_of(lambda method: method.loss is not methods.Method.loss)
def test_a_term_of_the_loss_is_finite_and_teaches(name: str, values: dict[str, Any]) -> None:
    method = methods.load(name, **values)
    assert methods.has_loss(method)
    vit, before, (images, _) = train(method.apply(micro_vit())).train(), untouched(), batch()
    kept = {key: value.clone() for key, value in before.state_dict().items()}
    term = method.loss(Step(1, vit, before, images, vit(images)))
    assert term is not None
    assert term.shape == ()
    assert term.isfinite()
    vit.zero_grad()
    term.backward()
    assert any(p.grad is not None and p.grad.any() for p in methods.trainable(vit))
    assert all(torch.equal(value, kept[key]) for key, value in before.state_dict().items())
    assert all(parameter.grad is None for parameter in before.parameters())


@cases_of(lambda method: method.after is not methods.Method.after)
def test_variants_compute_what_the_trained_model_computes_of(name: str, values: dict[str, Any]) -> None:
    method = methods.load(name, **values)
    assert methods.has_variants(method)
    images, _ = batch()
    trained, before = train(method.apply(models.add_head_norm(micro_vit()))), untouched()
    kept = [{key: value.clone() for key, value in vit.state_dict().items()} for vit in (trained, before)]
    with torch.inference_mode():
        expected = models.features(trained, images).shape, trained(images).shape
        names = []
        for variant, vit in method.after(trained, before):
            names.append(variant)
            found = models.features(vit.eval(), images), vit(images)
            assert tuple(tensor.shape for tensor in found) == expected
            assert all(tensor.isfinite().all() for tensor in found)
    assert len(set(names)) == len(names) > 0
    for vit, state in zip((trained, before), kept, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in vit.state_dict().items())


@every_method
def test_a_method_without_a_loss_or_variants_gives_none(name: str) -> None:
    method, before, (images, _) = methods.load(name), untouched(), batch()
    vit = method.apply(micro_vit())
    assert methods.has_loss(method) or method.loss(Step(1, vit, before, images, vit(images))) is None
    assert methods.has_variants(method) or list(method.after(vit, before)) == []


def test_l2_sp_adds_the_distance_to_the_start_and_the_norm_of_the_head() -> None:
    method, before, (images, _) = methods.load("l2_sp", alpha=0.3, beta=0.07), untouched(), batch()
    vit = method.apply(micro_vit())

    def term() -> float:
        found = method.loss(Step(1, vit, before, images, vit(images)))
        assert found is not None
        return found.item()

    head = 0.07 / 2 * (vit.head.weight.square().sum() + vit.head.bias.square().sum()).item()
    assert term() == pytest.approx(head)  # nothing has moved
    with torch.no_grad():
        vit.blocks[1].mlp.fc1.bias.add_(2)
        vit.norm.weight[0] -= 5
    assert term() == pytest.approx(head + 0.3 / 2 * (vit.blocks[1].mlp.fc1.bias.numel() * 2**2 + 5**2), rel=1e-5)


def test_layer_decay_slows_the_lower_layers() -> None:
    vit = methods.load("layer_decay", decay=0.5).apply(micro_vit())
    scales = {
        id(parameter): group.lr_scale
        for group in methods.load("layer_decay", decay=0.5).groups(vit)
        for parameter in group.parameters
    }
    named = dict(vit.named_parameters())
    found = {name: scales[id(named[name])] for name in ("head.bias", "norm.weight", "pos_embed", "cls_token")}
    assert found == {"head.bias": 1, "norm.weight": 1, "pos_embed": 0.5**7, "cls_token": 0.5**7}
    for index in range(DEPTH):
        assert scales[id(named[f"blocks.{index}.attn.qkv.weight"])] == 0.5 ** (DEPTH - index)
    assert scales[id(named["patch_embed.proj.weight"])] == 0.5 ** (DEPTH + 1)


def test_wise_ft_lies_on_the_line_between_before_and_after() -> None:
    method, before = methods.load("wise_ft", alphas=[0.0, 0.25, 1.0]), untouched()
    trained = train(method.apply(micro_vit()))
    found = dict(method.after(trained, before))
    assert list(found) == ["alpha=0", "alpha=0.25", "alpha=1"]
    for name, old in before.state_dict().items():
        new = trained.state_dict()[name]
        expected = {"alpha=0": old, "alpha=0.25": 0.75 * old + 0.25 * new, "alpha=1": new}
        for variant, vit in found.items():
            assert torch.allclose(vit.state_dict()[name], expected[variant], atol=1e-6), (variant, name)
    assert all(torch.equal(vit.head.weight, trained.head.weight) for vit in found.values())


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

    with models.shapes_only():
        vit = timm.create_model("vit_base_patch16_224", num_classes=100)
    assert methods.trainable_parameters(methods.load(name, **values).apply(vit)) == count


def backward(vit: Any, model: Any, method: methods.Method, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Gradients of a model's parameters, of the method's own term of the loss too."""
    terms = terms_of(method, vit, untouched)
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    term = terms.loss(1, images, logits) if terms.loss else None
    (loss if term is None else loss + term).backward()


def ddp_gradients(rank: int, world: int) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients of every method after one backward pass on this rank's part of the batch."""
    images, labels = batch()
    found = {}
    for name in methods.names():
        method = methods.load(name)
        vit = models.add_head_norm(method.apply(micro_vit())).train()
        model = DistributedDataParallel(vit, broadcast_buffers=False)
        backward(vit, model, method, images[rank::world], labels[rank::world])
        found[name] = gradients(vit)
    return found


def gradients(vit: Any) -> dict[str, torch.Tensor]:
    found = {key: p.grad for key, p in vit.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in found.values()), "a trainable parameter is unused"
    return found


def test_a_ddp_step_of_two_processes_equals_one(ranks: Ranks) -> None:
    images, labels = batch()
    first, second = ranks(ddp_gradients)
    for name in methods.names():
        method = methods.load(name)
        vit = models.add_head_norm(method.apply(micro_vit())).train()
        backward(vit, vit, method, images, labels)
        for key, gradient in gradients(vit).items():
            assert torch.equal(first[name][key], second[name][key]), f"{name}: {key}"
            assert torch.allclose(first[name][key], gradient, atol=1e-6), f"{name}: {key}"


@every_method
def test_a_method_is_a_frozen_value(name: str) -> None:
    method = methods.load(name)
    assert dataclasses.is_dataclass(method)
    assert hash(method) == hash(methods.load(name))
    assert pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'anything'"):
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
        ("l2_sp", {"alpha": -1.0}, "alpha = -1.0"),
        ("layer_decay", {"decay": 0.0}, "decay = 0.0"),
        ("wise_ft", {"alphas": []}, "alphas"),
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


def wrapped(**options: Any) -> Any:
    """A model whose layers were split and wrapped by peft as asked, with updates that are not zero."""
    vit = inject(micro_vit(depth=1), LoraConfig(r=3, lora_alpha=5, **options), ("q", "v"), method="lora").train()
    torch.manual_seed(0)
    for name, parameter in vit.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    return vit


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "bias": {"bias": "lora_only"},
    "dora": {"use_dora": True},
    "update with bias": {"lora_bias": True},
    "dropout": {"lora_dropout": 0.5},
}


@pytest.mark.parametrize("kind", [*VARIANTS, "two adapters", "another adapter", "merged", "disabled", "hook"])
def test_a_variant_computes_what_peft_computes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is not known to be plain low-rank adaptation goes through peft's own forward passes."""
    vit = wrapped(**VARIANTS.get(kind, {}))
    split = vit.blocks[0].attn.qkv
    for part in (split.q, split.v):
        if kind.endswith(("adapters", "adapter")):
            part.update_layer("other", 2, lora_alpha=7, config=LoraConfig(init_lora_weights=False))
            part.set_adapter(["default", "other"] if kind == "two adapters" else "other")
        if kind == "merged":
            part.merge()
        if kind == "disabled":
            part.enable_adapters(False)
    if kind == "hook":
        split.q.register_forward_hook(lambda module, inputs, output: output + 1)
    fast: list[int] = []
    at_once = _peft._at_once
    monkeypatch.setattr(_peft, "_at_once", lambda x, layers: fast.append(1) or at_once(x, layers))
    x = torch.randn(2, 5, 16)
    torch.manual_seed(1)
    found = split(x)
    torch.manual_seed(1)
    expected = torch.cat([split.q(x), split.k(x), split.v(x)], dim=-1)
    assert (found - expected).abs().max() < 1e-5
    assert bool(fast) == (kind in ("plain", "rslora", "bias"))


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
        methods.load("block_expansion", p=5).check(12)
    with pytest.raises(ValueError, match=r"p = 4 .* 6 blocks"):
        methods.load("block_expansion", p=4).apply(micro_vit())
    with pytest.raises(ValueError, match="k = 7 is more than"):
        methods.load("top_k", k=7).apply(micro_vit())
    with pytest.raises(ValueError, match="k = 13 is more than"):
        methods.load("top_k", k=13).check(12)


def test_architectures_without_the_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mlp.fc2"):
        methods.load("block_expansion", p=DEPTH).apply(micro_vit_without_fc2())
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
