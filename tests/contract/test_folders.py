"""Image folders as sources and targets: splits, odd pictures, and folders that cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bench import data
from bench.data import Request as DataRequest
from bench.data import decode
from bench.data._files import FileImages, _sample, readable
from bench.launching import preflight
from bench.launching.changes import Change, assignment
from bench.launching.launch import Launch
from bench.launching.request import Request
from bench.spec import Size, SpecError


def paint(path: Path, *, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def classes(root: Path, *, names: tuple[str, ...] = ("cat", "dog", "emu bird é"), count: int = 20) -> Path:
    for label, name in enumerate(names):
        for index in range(count):
            paint(root / name / f"{index:02d}.png", seed=1000 * label + index)
    return root


def fingerprints(split: data.Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.take(torch.arange(len(split)))]


def test_a_flat_folder_is_split_by_class(tmp_path: Path) -> None:
    target = data.target(f"folder:{classes(tmp_path)}", size=16)
    assert target.num_classes == 3
    parts = [target.train, target.val, target.test]
    assert [len(part) for part in parts] == [42, 9, 9]
    assert all(set(part.labels.tolist()) == {0, 1, 2} for part in parts)
    prints = [fingerprint for part in parts for fingerprint in fingerprints(part)]
    assert len(set(prints)) == len(prints) == 60
    assert target.train.take(torch.tensor([3, 1])).shape == (2, 3, 16, 16)


def test_a_copy_in_another_place_holds_the_same_images(tmp_path: Path) -> None:
    """So rows of workers with data of their own are compared; other labels, order or files are other images."""
    first, second = (
        data.target(f"folder:{classes(tmp_path / name)}", size=size) for name, size in (("a", 16), ("b", 32))
    )
    assert first.test.identity() == second.test.identity()
    assert first.test.fingerprint() != second.test.fingerprint()
    assert first.test.identity() != first.val.identity()
    backwards = np.arange(len(first.test))[::-1].copy()
    assert first.test.select(backwards).identity() != first.test.identity()
    paint(tmp_path / "c" / "cat" / "00.png", size=(41, 30))
    others = [FileImages([tmp_path / name / "cat" / "00.png"], [0], size=Size(16)) for name in ("a", "c")]
    assert others[0].identity() != others[1].identity()


def test_given_splits_are_used_and_missing_ones_are_split_off_train(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test", count=4)
    target = data.target(f"folder:{tmp_path}", size=16)
    assert [len(part) for part in (target.train, target.val, target.test)] == [51, 9, 12]
    assert isinstance(target.test, FileImages)
    assert all("test" in path.parts for path in target.test.paths)


def test_a_folder_as_a_source(tmp_path: Path) -> None:
    source = data.source(f"folder:{classes(tmp_path)}", size=16, per_class=5)
    assert (len(source.bank), len(source.val), len(source.test)) == (15, 9, 9)
    assert torch.bincount(source.bank.labels).tolist() == [5, 5, 5]
    assert source.class_names == data.target(f"folder:{tmp_path}", size=16).class_names


def test_imagenet_layout(tmp_path: Path) -> None:
    classes(tmp_path / "train", names=("n01", "n02"), count=6)
    classes(tmp_path / "val", names=("n01", "n02"), count=4)
    source = data.source(f"imagenet1k:{tmp_path}", size=16, per_class=3)
    assert (len(source.bank), len(source.val), len(source.test)) == (6, 4, 4)
    assert source.class_names == ["n01", "n02"]
    assert isinstance(source.val, FileImages)
    assert isinstance(source.test, FileImages)
    assert not set(source.val.paths) & set(source.test.paths)
    for split in (source.val, source.test):
        assert torch.bincount(split.labels).tolist() == [2, 2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA"])
def test_pictures_of_every_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    paint(path, mode=mode)
    assert decode(path, 16).shape == (3, 16, 16)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((20, 20), 32896, dtype=np.uint16)).save(path)
    assert decode(path, 16).float().mean().item() == pytest.approx(128, abs=1)


def test_damaged_pictures_are_named(tmp_path: Path) -> None:
    paint(tmp_path / "good.jpg", size=(200, 200))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((tmp_path / "good.jpg").read_bytes()[:3000])
    nonsense = tmp_path / "nonsense.png"
    nonsense.write_bytes(b"no picture")
    for path in (cut, nonsense, tmp_path / "missing.png"):
        with pytest.raises(ValueError, match=re.escape(path.name) + " cannot be read as a picture"):
            decode(path, 16)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "large.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"large\.png cannot be read"):
        decode(tmp_path / "large.png", 16)


def test_loops_of_links_end(tmp_path: Path) -> None:
    classes(tmp_path)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    assert data.target(f"folder:{tmp_path}", size=16).num_classes == 3


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    def target(name: str) -> None:
        data.target(f"folder:{tmp_path / name}", size=16)

    with pytest.raises(SpecError, match="there is no folder"):
        target("nowhere")
    classes(tmp_path / "one", names=("cat",))
    with pytest.raises(SpecError, match="at least two classes"):
        target("one")
    classes(tmp_path / "empty")
    (tmp_path / "empty" / "zebra").mkdir()
    with pytest.raises(SpecError, match="class 'zebra' has no images"):
        target("empty")
    classes(tmp_path / "few", count=1)
    with pytest.raises(SpecError, match="too few to be in every one of training, validation and test"):
        target("few")
    classes(tmp_path / "odd" / "train")
    classes(tmp_path / "odd" / "test", names=("cat", "dog", "emu bird é", "gnu"), count=2)
    with pytest.raises(SpecError, match="class 'gnu', which the training images do not have"):
        target("odd")
    classes(tmp_path / "gap" / "train")
    classes(tmp_path / "gap" / "val", names=("cat", "dog"), count=2)
    with pytest.raises(SpecError, match=r"class 'emu bird é' has no images in .*val"):
        target("gap")
    with pytest.raises(SpecError, match="no train and no val"):
        data.source(f"imagenet1k:{tmp_path}", size=16)
    with pytest.raises(SpecError, match="takes no path"):
        data.target("digits:/x", size=16)
    with pytest.raises(SpecError, match="say which folder"):
        data.target("folder", size=16)


def test_unreadable_images_are_named_or_skipped_and_counted(tmp_path: Path) -> None:
    classes(tmp_path)
    (tmp_path / "cat" / "03.png").write_bytes(b"no picture")
    whole = (tmp_path / "dog" / "04.png").read_bytes()
    (tmp_path / "dog" / "04.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=r"03\.png cannot be read .*--bad-images skip \(2 of 60 images are like that\)"):
        data.target(f"folder:{tmp_path}", size=16)
    target = data.target(f"folder:{tmp_path}", size=16, bad_images="skip")
    assert sum(len(part) for part in (target.train, target.val, target.test)) == 58
    assert [reason.split(" cannot")[0][-6:] for reason in data.skipped(target.train)] == ["03.png", "04.png"]
    (tmp_path / "dog" / "04.png").write_bytes(whole)  # what was found is not remembered of a file that has changed
    with pytest.raises(SpecError, match=r"03\.png cannot be read as a picture: [^(]*skip$"):
        data.target(f"folder:{tmp_path}", size=17)


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path: Path) -> None:
    classes(tmp_path, count=10)
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(SpecError, match="class 'dog' has no image that can be read"):
        data.target(f"folder:{tmp_path}", size=16, bad_images="skip")


def test_class_names_are_the_folders(tmp_path: Path) -> None:
    assert data.target(f"folder:{classes(tmp_path)}", size=16).class_names == ["cat", "dog", "emu bird é"]


def test_crops_are_cut_out_of_the_whole_picture(tmp_path: Path) -> None:
    classes(tmp_path)
    pixels = np.zeros((100, 300, 3), dtype=np.uint8)
    pixels[50:, 150:] = 200  # lower right, beyond the centre crop
    Image.fromarray(pixels).save(tmp_path / "cat" / "00.png")
    images = FileImages([tmp_path / "cat" / "00.png", tmp_path / "dog" / "00.png"], [0, 1], size=Size(16))
    assert images.sizes(torch.tensor([0, 1])).tolist() == [[100, 300], [30, 40]]
    box = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
    found = images.take_crops(torch.tensor([0, 1]), box, torch.tensor([False, True]))
    assert found.shape == (2, 3, 16, 16)
    assert (found[0] == 200).all()
    whole = images.take_crops(torch.tensor([1, 1]), box[1:].expand(2, 4), torch.tensor([False, True]))
    assert torch.equal(whole[1], whole[0].flip(-1))


@pytest.mark.parametrize("crop_min", [0.2, 1.0])
def test_reading_ahead_changes_nothing(tmp_path: Path, crop_min: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import training
    from bench.models import Preprocess
    from bench.readings import Point
    from bench.spec import TrainConfig

    train = data.target(f"folder:{classes(tmp_path)}", size=16).train
    assert isinstance(train, FileImages)
    feed = training.Feed(train, Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3), classes=3)
    config = TrainConfig(steps=7, batch_size=8, lr=0.01, crop_min=crop_min, flip=True)

    def losses(processes: int) -> list[float]:
        monkeypatch.setattr("bench.training.loop.processes_for", lambda device: processes)
        train.kept = False
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
        found: list[Point] = []
        training.train(
            model, feed, config, seed=0, device=torch.device("cpu"), watch=training.Watch(report=found.append)
        )
        return [point.values["train_loss"] for point in found]

    alone = losses(0)
    assert len(set(alone)) == 7
    assert losses(2) == alone
    assert not multiprocessing.active_children()


def test_a_picture_that_breaks_in_a_loader_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import measuring
    from bench.models import Preprocess

    monkeypatch.setattr("bench.measuring.features.processes_for", lambda device: 1)
    train = data.target(f"folder:{classes(tmp_path)}", size=16).train
    assert isinstance(train, FileImages)
    train.kept = False
    preprocess = Preprocess(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)

    def means() -> torch.Tensor:
        return measuring.map_images(lambda x: x.mean((1, 2, 3)), train, preprocess, torch.device("cpu"))

    whole = preprocess(train.take(torch.arange(len(train))))
    assert torch.equal(means(), whole.mean((1, 2, 3)))
    train.paths[5].write_bytes(b"no picture")
    with pytest.raises(ValueError, match=f"^{re.escape(str(train.paths[5]))} cannot be read as a picture"):
        means()
    assert not multiprocessing.active_children()


def test_pictures_that_are_kept_decoded_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    name = f"folder:{classes(tmp_path / 'pictures')}"
    plain, kept = (data.target(name, size=16, keep_decoded=keep).train for keep in (False, True))
    assert isinstance(plain, FileImages)
    assert isinstance(kept, FileImages)
    indices = torch.tensor([5, 0, 41])
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6]]).expand(3, 4)
    mirrored = torch.tensor([True, False, True])

    def everything(images: FileImages) -> list[torch.Tensor]:
        return [images.take(indices), images.sizes(indices), images.take_crops(indices, boxes, mirrored)]

    expected = everything(plain)
    assert all(map(torch.equal, everything(kept), expected))
    again = kept.select(np.arange(len(kept)))  # another process, or a later launch

    def undecodable(path: Path) -> Image.Image:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr("bench.data._decoded.read", undecodable)
    assert all(map(torch.equal, everything(again), expected))


def rewritten(path: Path, pixels: bytes, way: str) -> None:
    """Put other pixels of equal size into a bitmap, and leave its size and time as they were."""
    before = path.stat()
    content = path.read_bytes()
    if way == "in place":
        path.write_bytes(content[: -len(pixels)] + pixels)
    else:
        other = path.with_name("other")
        other.write_bytes(content[: -len(pixels)] + pixels)
        other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("way", ["in place", "moved there"])
def test_other_pixels_of_equal_size_and_time_are_other_images(
    way: str, many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fixed time, as archives set it; far from the places whose bytes are read, too."""
    if many:
        monkeypatch.setattr("bench.data._files.VERIFIED", 0)
    path = tmp_path / "x.bmp"
    paint(path, size=(300, 300))
    os.utime(path, (315532800, 315532800))
    images = FileImages([path], [0], size=Size(16))
    first = images.fingerprint()
    assert images.fingerprint() == first
    row = 300 * 3
    for changed in (bytes(row) + path.read_bytes()[-40 * row :], bytes(100 * row)):
        rewritten(path, changed, way)
        second = images.fingerprint()
        assert second != first
        first = second


def test_where_a_filesystem_knows_no_last_change_bytes_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.data._files._state", lambda path: (path.stat().st_size, 0, 0, 0))
    path = tmp_path / "x.bmp"
    images = FileImages([path], [0], size=Size(16))
    found = set()
    for seed in range(3):
        paint(path, seed=seed)
        _sample.cache_clear()  # another process
        found.add(images.fingerprint())
    assert len(found) == 3


def test_nothing_that_is_kept_outlives_other_pixels_of_equal_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    here, there = tmp_path / "x.bmp", tmp_path / "y.bmp"
    paint(here, size=(40, 40))
    there.write_bytes(here.read_bytes())

    def found() -> tuple[torch.Tensor, bool]:
        """Pixels that are kept decoded, and whether files with the same content were found."""
        first, second = (
            readable([path], [0], DataRequest(None, Size(16), "error", keep_decoded=True)) for path in (here, there)
        )
        return first.take(torch.tensor([0])), bool(data.identical(first, second))

    before, same = found()
    assert same
    rewritten(here, bytes(4800), "in place")
    after, same = found()
    assert not same
    assert not after.any()
    assert before.any()
    rewritten(here, here.read_bytes().replace(b"BM", b"no"), "in place")  # all of the file: it cannot be read any more
    with pytest.raises(SpecError, match="cannot be read as a picture"):
        found()


def test_pictures_that_do_not_fit_onto_the_disk_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    train = data.target(f"folder:{classes(tmp_path / 'pictures')}", size=16, keep_decoded=True).train
    with pytest.raises(
        SpecError, match=r"keep_decoded: 42 pictures take .* GiB, and 0\.0 GiB are free in .*BENCH_DATA"
    ):
        train.take(torch.tensor([0]))


def test_what_is_to_be_kept_decoded_is_decoded_before_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    launch = keeping_decoded(classes(tmp_path / "pictures"), tmp_path / "results")
    preflight.make_ready(launch)
    # 42 to train on; the splits to validate and to test on come from the same folder
    assert len(list((tmp_path / "data" / "decoded").glob("*.bin"))) == 3


def test_no_worker_starts_before_the_pictures_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.launching import study

    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    launch = keeping_decoded(classes(tmp_path / "pictures"), tmp_path / "results")
    cached = str(tmp_path / "data")
    free = {True: 1000, False: 2**40}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[str(path).startswith(cached)]))
    with pytest.raises(SpecError, match="keep_decoded: 42 pictures take"):
        study.run(launch)
    assert not launch.folder.path.exists()  # where a launch writes from its first moment on


def keeping_decoded(pictures: Path, results: Path) -> Launch:
    """A launch whose target's pictures are to be kept decoded."""
    changes = [
        Change(("target", "name"), f"folder:{pictures}", "--target"),
        Change(("results",), str(results), "--results"),
        assignment("target.keep_decoded=true"),
    ]
    return preflight.prepare(Request.of("linear", "tiny", changes))


def test_names_that_are_not_utf8_have_an_identity(tmp_path: Path) -> None:
    place = classes(tmp_path / "pictures") / "cat"
    sorted(place.iterdir())[0].rename(place / os.fsdecode(b"caf\xe9.png"))
    split = data.target(f"folder:{tmp_path / 'pictures'}", size=16).train
    assert len(split.identity()) == len(split.fingerprint()) == 64
