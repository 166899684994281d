"""What every backbone promises: local weights in every published layout, features, and every method or a reason."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bench import backbones, methods
from bench.spec import Backbone, SpecError

TINY_VIT = Backbone(name="vit_tiny_patch16_224", weights="random", image_size=32)
FAMILIES = [
    TINY_VIT,
    Backbone(name="vit_small_patch14_dinov2", weights="random", image_size=28),
    Backbone(name="vit_small_patch14_reg4_dinov2", weights="random", image_size=28),
    Backbone(name="vit_small_patch16_dinov3", weights="random", image_size=32),
    Backbone(name="vit_base_patch32_clip_224", weights="random", image_size=64),
    Backbone(name="beit_base_patch16_224", weights="random"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def state(seed: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    vit = backbones.plain(TINY_VIT, num_classes=0)
    return {key: value.clone() for key, value in vit.state_dict().items()}


def layouts(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.zeros(3, 3)}
    wrapped = {f"module.backbone.{key}": value for key, value in weights.items()}
    return {
        "plain": weights,
        "timm": {**weights, "head.weight": torch.zeros(1000, 192), "head.bias": torch.zeros(1000)},
        "mae": {"model": weights},
        "dino": {
            "student": {key: value + 1 for key, value in wrapped.items()},
            "teacher": {**{key.removeprefix("module."): v for key, v in wrapped.items()}, **head},
            "epoch": 100,
        },
        "half": {key: value.half() for key, value in weights.items()},
    }


@pytest.mark.parametrize("layout", ["plain", "timm", "mae", "dino", "half"])
def test_local_weights_are_loaded(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(layouts(state())[layout], path)
    vit = backbones.create(TINY_VIT.model_copy(update={"weights": str(path)}), num_classes=5)
    for key, value in state().items():
        assert torch.allclose(vit.state_dict()[key], value, atol=1e-3), key
    assert vit.head.out_features == 5


def test_safetensors_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state(), path)
    vit = backbones.create(TINY_VIT.model_copy(update={"weights": str(path)}), num_classes=5)
    assert torch.equal(vit.state_dict()["norm.bias"], state()["norm.bias"])


def test_position_embeddings_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state(), path)
    larger = Backbone(name=TINY_VIT.name, weights=str(path), image_size=64)
    vit = backbones.create(larger, num_classes=5)
    assert vit.pos_embed.shape[1] == 17
    assert backbones.preprocess(larger).size == 64
    with torch.inference_mode():
        assert backbones.features(vit, torch.randn(2, 3, 64, 64)).shape == (2, 192)


class Evil:
    """What pickle would call when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_pickled_code_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": Evil()}, path)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    for file in (path, tmp_path / "raw.pth"):
        with pytest.raises(SpecError, match="cannot be read as weights"):
            backbones.read_weights(file)
    assert "executed" not in capsys.readouterr().out


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    weights = state()
    del weights["blocks.3.mlp.fc1.bias"]
    weights["blocks.0.surprise"] = torch.zeros(1)
    path = tmp_path / "partial.pth"
    torch.save(weights, path)
    backbone = TINY_VIT.model_copy(update={"weights": str(path)})
    with pytest.raises(SpecError, match=r"1 missing keys \(blocks.3.mlp.fc1.bias\), 1 unexpected keys \(blocks.0"):
        backbones.create(backbone, num_classes=5)
    wrong = Backbone(name="vit_small_patch16_224", weights=str(path), image_size=32)
    with pytest.raises(SpecError, match="do not fit"):
        backbones.create(wrong, num_classes=5)
    path.write_bytes(b"nonsense")
    with pytest.raises(SpecError, match="cannot be read"):
        backbones.create(backbone, num_classes=5)


def test_names() -> None:
    with pytest.raises(SpecError, match="did you mean 'vit_base_patch16_224'"):
        backbones.timm_name("vit_bas_patch16_224")
    with pytest.raises(SpecError, match="no vision transformer"):
        backbones.plain(Backbone(name="resnet18"), num_classes=2)
    import timm

    for alias in backbones.ALIASES.values():
        assert timm.is_model(alias.split(".")[0]), alias
        assert timm.get_pretrained_cfg(alias) is not None, alias
    dino = backbones.preprocess(Backbone(name="vit-b16-224-dino"))
    assert (dino.size, dino.mean) == (224, (0.485, 0.456, 0.406))


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.name)
def test_every_method_works_on_every_family_or_says_why_not(backbone: Backbone) -> None:
    vit = backbones.create(backbone, num_classes=3).eval()
    size = backbones.preprocess(backbone).size
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features, logits = backbones.features(vit, images), vit(images)
    for name in methods.names():
        method = methods.load(name)
        model = copy.deepcopy(vit)
        try:
            model = method.apply(model).eval()
        except ValueError as reason:
            assert backbone.name.startswith(("beit", "vit_small_patch16_dinov3")), f"{name}: {reason}"
            assert name == "lora"
            assert "no effect" in str(reason)
            continue
        with torch.inference_mode():
            assert (backbones.features(model, images) - features).abs().max() < 1e-4, name
            assert (model(images) - logits).abs().max() < 1e-4, name
            merged = method.merge(model)
            assert (merged(images) - logits).abs().max() < 1e-4, name
