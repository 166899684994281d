"""The peers: single images through PIL and torchvision in loader processes; Lightning and transformers."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench import models
from bench.data import digits
from tests.performance.works import CLASSES, CROP_MIN, METHODS, Work


def prepared(work: Work) -> list[tuple[Any, int]]:
    """What a training set knows of every image before it is asked for: a path, or pixels; and the label."""
    if work.images is None:
        train = digits.target().train
        pixels = train.take(torch.arange(len(train))).permute(0, 2, 3, 1).numpy()
        return list(zip(pixels, train.labels.tolist(), strict=True))
    root = Path(work.images, "train")
    names = sorted(path.name for path in root.iterdir())
    return [(path, names.index(path.parent.name)) for path in sorted(root.glob("*/*.jpg"))]


class Pictures(Dataset[Any]):
    """One image at a time: opened with PIL, then transformed."""

    def __init__(self, items: list[tuple[Any, int]], transform: Callable[[Image.Image], Any] | None = None) -> None:
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        what, label = self.items[index]
        image = Image.open(what).convert("RGB") if isinstance(what, Path) else Image.fromarray(what)
        return (self.transform(image) if self.transform else image), label


def loader(work: Work) -> DataLoader[Any]:
    """Random crops, flips and normalisation, image by image, in as many processes as there are cores."""
    from torchvision import transforms

    preprocess = models.preprocess(work.benchmark.backbone)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(preprocess.size, scale=(CROP_MIN, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    return DataLoader(
        Pictures(prepared(work), transform),
        work.batch,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


def transformers_vit(work: Work, method: str) -> nn.Module:
    """transformers' ViT of the work's architecture, prepared for a method."""
    from transformers import ViTConfig, ViTForImageClassification

    vit: Any = models.build(work.trial("full"), CLASSES)
    block = vit.blocks[0]
    config: Any = ViTConfig(
        image_size=vit.patch_embed.img_size[0],
        patch_size=vit.patch_embed.patch_size[0],
        hidden_size=vit.embed_dim,
        num_hidden_layers=len(vit.blocks),
        num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features,
        num_labels=vit.head.out_features,  # type: ignore[call-arg] # it is its base class's
    )
    prepared: nn.Module = _prepared_for(ViTForImageClassification(config), method)
    return prepared


def _prepared_for(model: Any, method: str) -> Any:
    fields = METHODS[method]
    if method == "full":
        return model
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        rank = fields["rank"]
        targets = ["q_proj", "v_proj"]
        return get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, modules_to_save=["classifier"])
        )
    trained: list[nn.Module] = [model.classifier]
    if method == "top_k":
        trained += model.vit.layers[-fields["k"] :]
    elif method == "block_expansion":
        trained += _expand(model, fields["p"])
    model.requires_grad_(False)
    for part in trained:
        part.requires_grad_(True)
    return model


def _expand(model: Any, p: int) -> list[nn.Module]:
    """Insert p copies that start as the identity; returns them."""
    layers: list[nn.Module] = []
    inserted: list[nn.Module] = []
    group = len(model.vit.layers) // p
    for number, layer in enumerate(model.vit.layers, start=1):
        layers.append(layer)
        if number % group == 0:
            new: Any = copy.deepcopy(layer)
            for linear in (new.attention.o_proj, new.mlp.fc2):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
            inserted.append(new)
            layers.append(new)
    model.vit.layers = nn.ModuleList(layers)
    return inserted


def fit(model: nn.Module, work: Work, *, tick: Callable[[], bool]) -> None:
    """Train with Lightning; ``tick`` is called after every step."""
    import lightning

    class Module(lightning.LightningModule):  # type: ignore[misc] # it need not be installed
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            images, labels = batch
            loss = F.cross_entropy(self.model(images).logits, labels)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
            optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, work.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_train_batch_end(self, *_: Any) -> None:
            tick()

    lightning.Trainer(
        max_steps=work.steps,
        max_epochs=-1,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision="bf16-mixed" if work.precision == "bf16" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module().train(), loader(work))
