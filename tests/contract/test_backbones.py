"""What every backbone promises: local weights in every published layout, features, and every method or a reason."""

from __future__ import annotations

import argparse
import copy
import functools
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from bench import methods, models
from bench.data import decode
from bench.methods import Step
from bench.models.architectures import FILLS
from bench.models.weights import _downloaded, _load
from bench.spec import Backbone, Size, SpecError
from bench.spec.aliases import ALIASES
from bench.training import training_mode

TINY_VIT = Backbone(name="vit_tiny_patch16_224", weights="random", image_size=32)
FAMILIES = {  # architectures by timm's names, and the methods that refuse them
    "vit_base_patch16_224.mae": [],
    "vit_base_patch16_224.augreg_in21k": [],
    "vit_small_patch14_dinov2": [],
    "vit_giant_patch14_dinov2": [],  # SwiGLU
    "vit_giant_patch14_reg4_dinov2": [],
    "vit_small_patch16_dinov3": [],
    "vit_small_plus_patch16_dinov3": [],
    "vit_base_patch32_clip_quickgelu_224": [],  # a norm before the blocks
    "beit_base_patch16_224": ["lora"],
    "beitv2_base_patch16_224": ["lora"],
    "eva02_tiny_patch14_224": ["lora"],
    "vit_small_patch16_rope_mixed_224": ["block_expansion"],
    "deit_tiny_distilled_patch16_224": [],  # two heads
    "xcit_nano_12_p16_224": ["block_expansion"],  # batch norms, and a third branch in every block
    "eva02_enormous_patch14_clip_224": ["block_expansion", "lora"],  # norms behind the branches
}
SMALL: dict[str, Any] = {"embed_dim": 48, "depth": 4, "num_heads": 2, "num_classes": 3}


@functools.cache
def architecture(name: str) -> Any:
    """A family's architecture at a laboratory's size; not to be changed."""
    patch = int(re.findall(r"_p(?:atch)?(\d+)", name)[0])
    return timm.create_model(name, img_size=2 * patch, **SMALL)


def small(name: str, *, seed: int = 0) -> Any:
    """A family's model at that size, with every parameter away from its usual initial value."""
    torch.manual_seed(seed)
    vit = copy.deepcopy(architecture(name))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit.eval()


def pictures(vit: Any, count: int = 2) -> torch.Tensor:
    """Random inputs of a model's size."""
    size = vit.patch_embed.img_size[0]
    return torch.randn(count, 3, size, size)


def headless(vit: Any) -> Any:
    """The backbone of a model without its head, frozen: what a method calls the untouched model."""
    untouched = copy.deepcopy(vit)
    untouched.head = torch.nn.Identity()
    if hasattr(untouched, "head_dist"):
        untouched.head_dist = torch.nn.Identity()
    return untouched.requires_grad_(False)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@functools.cache
def drawn() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return models.plain(TINY_VIT, num_classes=0).state_dict()


def state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in drawn().items()}


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
        "ibot": {
            "teacher": {f"backbone.{key}": value for key, value in {**weights, "masked_embed": ONE}.items()},
            "student": {key: value + 1 for key, value in wrapped.items()},
            "args": argparse.Namespace(arch="vit_tiny", lr=0.1),
        },
        "mae pre-training": {
            "model": {**weights, "mask_token": ONE, "decoder_blocks.0.norm1.weight": ONE, "decoder_embed.bias": ONE},
            "args": argparse.Namespace(model="mae_vit"),
        },
        "moco v3": {
            "state_dict": {
                **{f"module.base_encoder.{key}": value for key, value in {**weights, **head}.items()},
                **{f"module.momentum_encoder.{key}": value + 1 for key, value in weights.items()},
                "module.predictor.0.weight": ONE,
            }
        },
        "dinov2 training": {
            "model": {f"{name}.backbone.{key}": value + add for name, add in NETWORKS for key, value in weights.items()}
        },
        "hugging face": {f"vit.{key}": value for key, value in of_hugging_face(weights).items()}
        | {"classifier.weight": ONE},
        "hugging face, no head": of_hugging_face(weights) | {"pooler.dense.bias": ONE},
    }


ONE = torch.ones(1)
NETWORKS = (("student", 1), ("teacher", 0))


def of_hugging_face(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the names of Hugging Face's ViT."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks": "encoder.layer",
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    found = {}
    for key, value in weights.items():
        for own, its in names.items():
            key = key.replace(own, its)
        key = re.sub(r"^norm\.", "layernorm.", key)
        if "attn.qkv" not in key:
            found[key] = value
            continue
        for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
            found[key.replace("attn.qkv", f"attention.attention.{part}")] = third
    return found


LAYOUTS = ["plain", "timm", "mae", "dino", "half", "ibot", "mae pre-training", "moco v3", "dinov2 training"]


@pytest.mark.parametrize("layout", [*LAYOUTS, "hugging face", "hugging face, no head"])
def test_local_weights_are_loaded(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(layouts(state())[layout], path)
    vit = models.create(TINY_VIT.model_copy(update={"weights": str(path)}), num_classes=5)
    for key, value in state().items():
        assert torch.allclose(vit.state_dict()[key], value, atol=1e-3), key
    assert vit.head.out_features == 5


def with_weights(content: Any, path: Path, **more: Any) -> Any:
    """The small backbone with a file's weights."""
    torch.save(content, path)
    return models.create(TINY_VIT.model_copy(update={"weights": str(path), **more}), num_classes=5)


def test_the_student_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    path, both = tmp_path / "full.pth", layouts(state())["dino"]
    student, expected = {"student": both["student"]}, state()["norm.bias"] + 1
    for content in (both, student):
        vit = with_weights(content, path, checkpoint_key="student")
        assert torch.equal(vit.norm.bias, expected)
    assert torch.equal(with_weights(both, path, checkpoint_key="teacher").norm.bias, expected - 1)
    with pytest.raises(SpecError, match=r"a student and no teacher, which is the default: .*checkpoint_key=student$"):
        with_weights(student, path)
    with pytest.raises(SpecError, match="it holds a teacher and no student: ask for the teacher with --set"):
        with_weights({"teacher": both["teacher"]}, path, checkpoint_key="student")
    with pytest.raises(SpecError, match="checkpoint_key = student, and it holds one network only: leave the key out"):
        with_weights(state(), path, checkpoint_key="student")
    with pytest.raises(ValueError, match="checkpoint_key = student chooses a network of a file: name the file"):
        Backbone(name="tiny", checkpoint_key="student")


def test_dinov2_of_hugging_face_is_loaded(tmp_path: Path) -> None:
    """With registers, a gated MLP and scales of the layers."""
    vit, other = small("vit_giant_patch14_reg4_dinov2"), small("vit_giant_patch14_reg4_dinov2", seed=1)
    renamed = {f"dinov2_with_registers.{key}": value for key, value in of_hugging_face(vit.state_dict()).items()}
    shown = {
        "reg_token": "embeddings.register_tokens",
        "intermediate.dense": "mlp.weights_in",
        "output.dense": "mlp.weights_out",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    for own, its in shown.items():
        renamed = {re.sub(rf"(?<!attention\.){own}", its, key): value for key, value in renamed.items()}
    prefix = "dinov2_with_registers.embeddings."
    place = torch.randn(1, 1, vit.embed_dim)  # of the class token, which timm adds to the token itself
    renamed[prefix + "position_embeddings"] = torch.cat([place, renamed[prefix + "position_embeddings"]], 1)
    renamed[prefix + "cls_token"] = renamed[prefix + "cls_token"] - place[:, 0]
    torch.save(renamed, tmp_path / "weights.pth")
    _load(other, tmp_path / "weights.pth")
    with torch.inference_mode():
        images = pictures(vit)
        assert torch.allclose(models.features(other, images), models.features(vit, images), atol=1e-5)


def test_a_layout_of_hugging_face_that_is_not_known_is_named(tmp_path: Path) -> None:
    other = {"embeddings.cls_token": ONE, "layer.0.attention.q_proj.weight": ONE}
    with pytest.raises(SpecError, match=r"a model of Hugging Face's transformers that is not known here \(ViT, DeiT"):
        with_weights(other, tmp_path / "weights.pth")
    partial = of_hugging_face(state())
    del partial["encoder.layer.3.attention.attention.key.bias"]
    with pytest.raises(SpecError, match=r"lacks encoder\.layer\.3\.attention\.attention\.key\.bias$"):
        with_weights(partial, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda value: value.index_fill(0, torch.tensor(3), torch.nan), "NaN or infinite values"),
        (lambda value: value.index_fill(0, torch.tensor(3), torch.inf), "NaN or infinite values"),
        (lambda value: 1e300 * value.double(), "NaN or infinite values"),
        (lambda value: (100 * value).to(torch.int8), "int8, not floating-point numbers"),
        (lambda value: value > 0, "bool, not floating-point numbers"),
    ],
    ids=["nan", "inf", "too large", "int8", "bool"],
)
@pytest.mark.parametrize("layout", ["plain", "hugging face"])
def test_weights_that_are_no_numbers_are_refused_by_name(spoil: Any, said: str, layout: str, tmp_path: Path) -> None:
    weights = state()
    weights["blocks.2.mlp.fc1.weight"] = spoil(weights["blocks.2.mlp.fc1.weight"])
    with pytest.raises(SpecError, match=rf"cannot be used: its 'blocks\.2\.mlp\.fc1\.weight' holds {said}$"):
        with_weights(layouts(weights)[layout], tmp_path / "weights.pth")


def test_safetensors_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state(), path)
    vit = models.create(TINY_VIT.model_copy(update={"weights": str(path)}), num_classes=5)
    assert torch.equal(vit.state_dict()["norm.bias"], state()["norm.bias"])


def test_position_embeddings_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state(), path)
    larger = Backbone(name=TINY_VIT.name, weights=str(path), image_size=64)
    vit: Any = models.create(larger, num_classes=5)
    assert vit.pos_embed.shape[1] == 17
    assert models.preprocess(larger).size == 64
    with torch.inference_mode():
        assert models.features(vit, torch.randn(2, 3, 64, 64)).shape == (2, 192)


class Evil:
    """What pickle would call when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_pickled_code_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": Evil()}, path)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SpecError, match=r"it holds more than weights, a \S*print, and what is"):
        models.read_weights(path)
    with pytest.raises(
        SpecError, match=r"cannot be read as weights: it is damaged, or was not written by torch\.save$"
    ):
        models.read_weights(tmp_path / "raw.pth")
    assert "executed" not in capsys.readouterr().out


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    weights = state()
    del weights["blocks.3.mlp.fc1.bias"]
    weights["blocks.0.surprise"] = torch.zeros(1)
    path = tmp_path / "partial.pth"
    torch.save(weights, path)
    backbone = TINY_VIT.model_copy(update={"weights": str(path)})
    with pytest.raises(SpecError, match=r"1 missing keys \(blocks.3.mlp.fc1.bias\), 1 unexpected keys \(blocks.0"):
        models.create(backbone, num_classes=5)
    torch.save({"head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)}, path)
    with pytest.raises(SpecError, match=r"150 missing keys \(cls_token, pos_embed.*\), 0 unexpected keys, 0 misshapen"):
        models.create(backbone, num_classes=5)
    torch.save({"net": state()}, path)
    with pytest.raises(SpecError, match=r"its 'net' is no tensor, and no layout known here"):
        models.create(backbone, num_classes=5)
    torch.save({0: torch.zeros(1)}, path)
    with pytest.raises(SpecError, match="it holds no tensors by name"):
        models.create(backbone, num_classes=5)
    path.write_bytes(b"nonsense")
    with pytest.raises(SpecError, match="cannot be read"):
        models.create(backbone, num_classes=5)


def test_weights_of_another_width_or_family_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dino.pth"
    torch.save(layouts(state())["dino"], path)
    for name in (
        "vit_small_patch16_224",
        "deit3_small_patch16_224",
        "beit_base_patch16_224",
        "vit_small_patch16_dinov3",
    ):
        with pytest.raises(
            SpecError, match=r"do not fit: \d+ missing keys.* misshapen keys \(cls_token: 1x1x192 for 1x1x"
        ):
            models.create(Backbone(name=name, weights=str(path), image_size=32), num_classes=5)


def test_random_weights_are_one_backbone_whatever_the_seed() -> None:
    torch.manual_seed(1)
    first, drawn = models.create(TINY_VIT, num_classes=5), torch.rand(1)
    torch.manual_seed(2)
    second, probed = models.create(TINY_VIT, num_classes=5), models.create(TINY_VIT, num_classes=0)
    for key, value in probed.state_dict().items():
        assert torch.equal(first.state_dict()[key], value), key
        assert torch.equal(second.state_dict()[key], value), key
    assert not torch.equal(first.head.weight, second.head.weight)
    torch.manual_seed(1)
    models.plain(TINY_VIT, num_classes=5)
    assert torch.equal(torch.rand(1), drawn)  # the fixed seed leaves the caller's stream alone


def test_downloaded_weights_are_asked_for_once_and_leave_the_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own, asked = timm.create_model, 0

    def with_a_hub(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        nonlocal asked
        vit = own(name, **options)
        if pretrained:
            asked += 1
            vit.load_state_dict(state(), strict=False)
        return vit

    monkeypatch.setattr(timm, "create_model", with_a_hub)
    _downloaded.cache_clear()
    backbone = TINY_VIT.model_copy(update={"weights": None})
    built = []
    for classes in (5, 5, 7):
        torch.manual_seed(1)
        built.append((models.create(backbone, num_classes=classes), torch.rand(1)))
    (first, draw), (second, again), (third, _) = built
    assert asked == 1
    assert torch.equal(draw, again)  # whether or not the weights were there already
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert third.head.out_features == 7
    for name, value in state().items():
        assert torch.equal(third.state_dict()[name], value), name
    with torch.no_grad():
        first.blocks[0].attn.qkv.weight.add_(1)  # training must not reach what is kept
    assert torch.equal(
        models.create(backbone, num_classes=5).blocks[0].attn.qkv.weight, state()["blocks.0.attn.qkv.weight"]
    )
    _downloaded.cache_clear()


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_every_family_are_loaded_in_timms_layout(name: str, tmp_path: Path) -> None:
    vit, other = small(name), small(name, seed=1)
    save_file({key: value.contiguous() for key, value in vit.state_dict().items()}, tmp_path / "weights.safetensors")
    _load(other, tmp_path / "weights.safetensors")
    images = pictures(vit)
    with torch.inference_mode():
        assert torch.equal(models.features(other, images), models.features(vit, images))


class Fills(TorchFunctionMode):
    """Notes what is asked of torch in place."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FILLS:
            self.seen.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["tiny", "vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_a_model_that_has_shapes_only_is_not_initialised(name: str) -> None:
    """Which takes torch longer than all else; its tensors are those of the model with values."""
    with Fills() as noted, models.shapes_only():
        outline = models.plain(Backbone(name=name), num_classes=3)
    assert not noted.seen
    with noted:
        whole = models.plain(Backbone(name=name), num_classes=3)
    assert {"fill_", "uniform_"} <= noted.seen
    kinds = [{key: (value.shape, value.dtype) for key, value in vit.state_dict().items()} for vit in (outline, whole)]
    assert kinds[0] == kinds[1]
    assert {value.device.type for value in outline.state_dict().values()} == {"meta"}


def test_tensors_that_have_values_are_filled_wherever_they_are_made() -> None:
    with models.shapes_only():
        assert torch.zeros(2, device="cpu").add_(1).tolist() == [1, 1]
    assert torch.zeros(2).fill_(3).tolist() == [3, 3]


def test_names() -> None:
    with pytest.raises(SpecError, match="did you mean 'vit_base_patch16_224'"):
        models.timm_name("vit_bas_patch16_224")
    for name in ("resnet18", "crossvit_tiny_240", "swin_tiny_patch4_window7_224", "pit_ti_224", "mobilevit_xxs"):
        with models.shapes_only():
            for classes in (0, 2):
                with pytest.raises(SpecError, match="no vision transformer"):
                    models.plain(Backbone(name=name), num_classes=classes)
    for name, size, said in (
        ("xcit_nano_12_p16_224", 65, "img_size=65: .*patch_size. should divide image"),
        ("resnet18", 65, "img_size=65: .*unexpected keyword argument 'img_size'"),
        ("vit_base_patch16_224.nonsense", 32, "img_size=32: .*nonsense"),
    ):
        with pytest.raises(SpecError, match=rf"^backbone .{re.escape(name)}. cannot be built with {said}"):
            models.depth(Backbone(name=name, image_size=size))
    for name, said in (
        ("vit_base_patch16_siglip_224", "class token"),
        ("vit_base_patch16_gap_224", "class token"),
        ("vit_base_patch16_rope_reg1_gap_256", "no class token"),
        ("vit_huge_patch16_radio_v3", "no norm after its blocks"),
    ):
        with models.shapes_only(), pytest.raises(SpecError, match=said):
            models.plain(Backbone(name=name), num_classes=2)


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_is_a_backbone_that_timm_has_weights_for(alias: str) -> None:
    assert ALIASES[alias] in timm.list_models(ALIASES[alias].split(".")[0] + ".*", pretrained=True)
    found = models.preprocess(Backbone(name=alias))  # builds it, and would say what is wrong with it
    assert str(found.size) in alias or found.size == {"dinov2": 518, "dinov3": 256}[alias.split("-")[2]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # timm's default crop is 0.9; DINO and MAE were evaluated on 224 of 256
        ("vit-b16-224-dino", models.Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)),
        ("vit-b16-224-mae", models.Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)),
        ("vit-b14-dinov2", models.Preprocess(518, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0)),
        ("vit-b16-224-in21k", models.Preprocess(224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9)),
        ("vit_base_patch16_224_miil.in21k", models.Preprocess(224, (0.0,) * 3, (1.0,) * 3, "bilinear", 0.875)),
    ],
)
def test_every_backbone_has_its_own_data_configuration(name: str, expected: models.Preprocess) -> None:
    assert models.preprocess(Backbone(name=name)) == expected


@pytest.mark.parametrize(("name", "blocks"), [("tiny", 12), ("vit-l16-224-mae", 24), ("vit-g14-dinov2", 40)])
def test_depth_is_that_of_the_architecture(name: str, blocks: int) -> None:
    assert models.depth(Backbone(name=name)) == blocks


def test_an_oblong_input_is_refused_unless_a_size_is_given() -> None:
    with pytest.raises(SpecError, match="expects 1024 x 768 pixels: choose a square"):
        models.preprocess(Backbone(name="vit_base_patch16_sapiens2"))


def test_pictures_follow_the_configuration(tmp_path: Path) -> None:
    """A picture with a ramp: what the crop leaves of it, and how it is smoothed, can be read off."""
    ramp = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    whole, cropped = (decode(tmp_path / "ramp.png", Size(20, crop)) for crop in (1.0, 0.5))
    assert (int(whole[0, 0, 0]), int(whole[0, 0, -1])) == (5, 194)
    assert (int(cropped[0, 0, 0]), int(cropped[0, 0, -1])) == (52, 147)
    noise = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    Image.fromarray(noise[0].permute(1, 2, 0).numpy()).save(tmp_path / "noise.png")
    for interpolation in ("bicubic", "bilinear"):
        preprocess = models.Preprocess(20, (0.0,) * 3, (1 / 255,) * 3, interpolation, 1.0)
        from_file = decode(tmp_path / "noise.png", preprocess.files)
        # Pillow rounds to whole values after either direction, and keeps them in 0..255.
        assert (preprocess(noise)[0] - from_file).abs().max() < 2
    assert not torch.equal(*(decode(tmp_path / "noise.png", Size(20, 1.0, kind)) for kind in ("bicubic", "bilinear")))


def test_features_are_the_class_token_after_the_final_norm() -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        for name in ("vit_base_patch16_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"):
            vit = small(name)
            norm = vit.fc_norm if isinstance(vit.norm, torch.nn.Identity) else vit.norm
            found = models.features(vit, images)
            normalised = (found - norm.bias) / norm.weight
            assert normalised.mean(1).abs().max() < 1e-4, name
            assert (normalised.var(1, correction=0) - 1).abs().max() < 1e-2, name


def applied(kind: str, vit: Any) -> tuple[methods.Method, Any]:
    """A method that fits four blocks, and a copy of a model that it was applied to; ValueError if it refuses."""
    method = methods.load(kind, **({"p": 2} if kind == "block_expansion" else {}))
    return method, method.apply(copy.deepcopy(vit)).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_works_on_every_family_or_says_why_not(name: str) -> None:
    vit = small(name)
    images = pictures(vit)
    refused = []
    with torch.inference_mode():
        features, logits = models.features(vit, images), vit(images)
    for kind in methods.names():
        try:
            method, model = applied(kind, vit)
        except ValueError as reason:
            assert re.search("no effect|not supported", str(reason)), reason
            refused.append(kind)
            continue
        with torch.inference_mode():
            found, expected = models.features(model, images), model(images)
            if method.identity_at_start:
                assert (found - features).abs().max() < 1e-4, kind
                assert (expected - logits).abs().max() < 1e-4, kind
            if method.mergeable:
                merged = models.fold_head_norm(method.merge(model))
                assert (merged(images) - expected).abs().max() < 1e-4, kind
                assert set(merged.state_dict()) >= set(vit.state_dict()), kind
    assert refused == FAMILIES[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_methods_add_to_training_fits_every_family(name: str) -> None:
    """Groups, a term of the loss, and further models, of whatever parts a family's model has."""
    vit = small(name)
    images, untouched = pictures(vit), headless(vit)
    for kind in methods.names():
        if kind in FAMILIES[name]:
            continue
        method, model = applied(kind, vit)
        grouped = [id(parameter) for group in method.groups(model) for parameter in group.parameters]
        assert sorted(grouped) == sorted(map(id, methods.trainable(model))), kind
        logits = model(images)
        term = method.loss(Step(1, model, untouched, images, logits))
        assert methods.has_loss(method) == (term is not None), kind
        assert term is None or (term.shape == () and term.isfinite()), kind
        for variant, other in method.after(model, untouched):
            assert other.eval()(images).shape == logits.shape, variant


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
def test_what_is_frozen_ends_bit_for_bit_as_it_began(name: str) -> None:
    """Buffers included: what a batch norm has seen may move only where the norm itself is trained."""
    vit = small(name)
    for kind in methods.names():
        if kind in FAMILIES[name]:
            continue
        _, model = applied(kind, vit)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        training_mode(model)
        step(model, pictures(vit, 4))
        for key, value in model.state_dict().items():
            owner = model.get_submodule(key.rpartition(".")[0])
            whole = {id(one) for one in owner.parameters(recurse=False)} <= set(map(id, methods.trainable(model)))
            assert key in trained or (whole and owner.training) or torch.equal(value, before[key]), (kind, key)
        assert {key for key in trained if key.startswith("head")} == {key for key in before if key.startswith("head")}
        if kind == "linear":
            assert models.same_features(model, headless(vit))
            assert moved(model, before) == trained


def step(model: Any, images: torch.Tensor) -> None:
    """One of plain SGD."""
    optimizer = torch.optim.SGD(methods.trainable(model), lr=0.1)
    torch.nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 3).backward()
    optimizer.step()


def moved(model: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def test_what_reads_the_class_token_after_the_blocks_learns_as_fast_as_the_head() -> None:
    method = methods.load("layer_decay", decay=0.5)
    vit = method.apply(small("xcit_nano_12_p16_224"))
    scales = {id(parameter): group.lr_scale for group in method.groups(vit) for parameter in group.parameters}
    assert {scales[id(parameter)] for parameter in vit.cls_attn_blocks.parameters()} == {1}
    assert {scales[id(parameter)] for parameter in vit.patch_embed.parameters()} == {0.5**5}


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "xcit_nano_12_p16_224"])
def test_a_head_norm_needs_a_place_before_one_head(name: str) -> None:
    with pytest.raises(SpecError, match="has no single place before its head for a norm: use head_norm: false"):
        models.add_head_norm(small(name))


def test_views_of_a_subclass_of_the_vision_transformer_are_refused() -> None:
    """It may read more than one token, as with a distillation token."""
    with pytest.raises(SpecError, match="needs a plain timm VisionTransformer, not a VisionTransformerDistilled"):
        models.Tail(methods.load("linear").apply(small("deit_tiny_distilled_patch16_224")))


def test_weights_of_another_number_of_heads_are_refused(tmp_path: Path) -> None:
    """Their shapes are the same: MoCo v3's ViT-S has 12 heads, timm's 6; Hugging Face says it in a file beside."""
    state = models.plain(Backbone(name="vit_small_patch16_224", image_size=32), num_classes=0).state_dict()
    torch.save(
        {"state_dict": {f"module.base_encoder.{key}": value for key, value in state.items()}}, tmp_path / "m.pth"
    )
    save_file(state, tmp_path / "hf.safetensors")
    linear = {f"module.{key}": value for key, value in state.items()}
    torch.save({"arch": "vit_small", "state_dict": linear}, tmp_path / "lin.pth")
    compiled = {f"module._orig_mod.base_encoder.{key}": value for key, value in state.items()}
    torch.save({"teacher": compiled}, tmp_path / "compiled.pth")
    torch.save(state, tmp_path / "pytorch_model.bin")
    mocos = [(name, "MoCo v3's") for name in ("m.pth", "lin.pth", "compiled.pth")]
    for name, told in (*mocos, ("pytorch_model.bin", "config.json says"), ("hf.safetensors", "config.json says")):
        (tmp_path / "config.json").write_text('{"model_type": "vit", "num_attention_heads": 12}')
        backbone = Backbone(name="vit_small_patch16_224", image_size=32, weights=str(tmp_path / name))
        with pytest.raises(SpecError, match=f"{told}.* 12 attention heads, and this backbone 6"):
            models.create(backbone, num_classes=0)
    (tmp_path / "config.json").write_text('{"model_type": "vit", "num_attention_heads": 6}')
    models.create(backbone, num_classes=0)
    (tmp_path / "config.json").write_text("not of this file")
    models.create(backbone, num_classes=0)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "vit_tiny_patch16_224", "vit_small_resnet26d_224"])
def test_patches_have_a_size_whatever_makes_them(name: str) -> None:
    backbone = Backbone(name=name, weights="random", image_size=64)
    assert models.unseen_border(backbone) is None
    assert models.preprocess(backbone).size == 64


def test_a_refusal_of_timm_that_says_nothing_is_named() -> None:
    with pytest.raises(SpecError, match="no more than AssertionError; another --image-size may do"):
        models.plain(Backbone(name="vit_tiny_r_s16_p8_224", weights="random", image_size=8), num_classes=0)


def test_a_size_that_cannot_be_run_is_refused() -> None:
    """It can be built: timm's own check comes with the first image."""
    with pytest.raises(SpecError, match=r"cannot take images of 100 pixels a side .*divisible by patch size"):
        models.check_size(Backbone(name="vit_small_patch16_dinov3", weights="random", image_size=100))
    models.check_size(Backbone(name="vit_small_patch16_dinov3", weights="random", image_size=96))
    models.check_size(Backbone(name="vit_tiny_patch16_224", weights="random", image_size=100))
