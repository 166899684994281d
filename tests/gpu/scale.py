"""How large everything is: for a GPU, for a look at a CPU, and for the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes. ``folder`` holds pictures, caches and records, and is removed at the end."""

    name: str
    device: str
    """``cuda`` or ``cpu``."""
    model: str
    """timm's name for what speed is measured with, or ``tiny``."""
    batch: int
    steps: int
    """Of a training whose second half is timed."""
    file_steps: int
    """The same from files: as many as make the pictures that were decoded ahead of the clock not count."""
    classes: int
    pictures: int
    """JPEG files to train on."""
    repeats: int
    """Timings of one thing, of which the median counts."""
    side: int
    """Of the square matrices whose product is the rate that all is compared with."""
    bank: int
    queries: int
    width: int
    check_steps: int
    """Of the trainings that are compared between devices."""
    check_batch: int
    drawn: int
    """Shapes of each class that these train and are measured on."""
    methods: tuple[str, ...] = ()
    """Only these, all if empty."""
    peers: tuple[str, ...] = ("timm", "lightning")
    compile: bool = True
    folder: str = ""

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU that is measured."""
        return self.device == "cuda"


GPU = Scale(
    name="gpu",
    device="cuda",
    model="vit_base_patch16_224.dino",
    batch=128,
    steps=24,
    file_steps=80,
    classes=10,
    pictures=2560,
    repeats=10,
    side=8192,
    bank=1_281_167,
    queries=50_000,
    width=768,
    check_steps=20,
    check_batch=32,
    drawn=30,
)

CPU = Scale(
    name="cpu",
    device="cpu",
    model="tiny",
    batch=16,
    steps=4,
    file_steps=4,
    classes=10,
    pictures=80,
    repeats=2,
    side=512,
    bank=5000,
    queries=500,
    width=64,
    check_steps=5,
    check_batch=32,
    drawn=30,
)

LEAST = Scale(
    name="least",
    device="cpu",
    model="tiny",
    batch=4,
    steps=2,
    file_steps=2,
    classes=10,
    pictures=20,
    repeats=1,
    side=64,
    bank=600,
    queries=40,
    width=16,
    check_steps=2,
    check_batch=8,
    drawn=10,
    methods=("full", "lora"),
    peers=("timm",),
    compile=False,
)
