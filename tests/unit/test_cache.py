"""What is kept between launches: used if it is whole, computed again if it is not, and never in the way."""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from bench import cache
from bench.data._decoded import decoded


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())
    return tmp_path / "cache"


def pixels() -> torch.Tensor:
    return torch.arange(3000, dtype=torch.int64).to(torch.uint8).view(10, 3, 10, 10)


def filled(values: np.ndarray[Any, Any]) -> None:
    values[:] = np.arange(len(values)) % 251


KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "json": ("some/key.json", lambda: cache.remember("some", "key", lambda: {"0": "no picture", "n": [95.2, 99]})),
    "mapped": ("shared/key.bin", lambda: cache.shared(pixels(), "key").tolist()),
    "in place": (
        "other/key.bin",
        lambda: (cache.intact("other/key.bin") or cache.fill("other/key.bin", 3000, filled)) and cache.read(OTHER),
    ),
}
OTHER = "other/key.bin"


def flip(content: bytes) -> bytes:
    return content[:20] + bytes([content[20] ^ 0x40]) + content[21:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-100],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "second half zero": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "a bit": flip,
    "longer": lambda content: content + b"\n",
    "another number": lambda content: content.replace(b"95.2", b"93.6").replace(b"\x01\x02", b"\x01\x03"),
    "another type": lambda content: b"[]",
    "null": lambda content: b"null",
    "without a seal": lambda content: content[: -cache.SEAL_BYTES],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_computed_again_with_one_warning(kind: str, damage: str, folder: Path) -> None:
    name, use = KINDS[kind]
    expected = use()
    path = folder / name
    whole = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use() == expected
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    path.write_bytes(DAMAGE[damage](whole))
    with pytest.warns(
        RuntimeWarning, match=rf"^{re.escape(str(path))} is damaged, or of an earlier version: it"
    ) as said:
        assert use() == expected
    assert len(said) == 1
    assert path.read_bytes() == whole


def test_a_file_under_another_name_is_not_what_was_asked_for(folder: Path) -> None:
    cache.remember("some", "a", lambda: 1)
    (folder / "some" / "a.json").rename(folder / "some" / "b.json")
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.remember("some", "b", lambda: 2) == 2


def test_values_of_another_size_are_not_used() -> None:
    cache.shared(pixels()[:5], "key")
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert torch.equal(cache.shared(pixels(), "key"), pixels())
    assert torch.equal(cache.shared(pixels(), "key"), pixels())


def test_what_is_kept_is_not_computed() -> None:
    cache.remember("some", "key", lambda: [1])
    assert cache.remember("some", "key", lambda: pytest.fail("computed again")) == [1]
    rows = torch.randn(4, 5)
    assert cache.keep("rows", rows)
    found = cache.tensor("rows", torch.float32, (4, -1))
    assert found is not None
    assert torch.equal(found, rows)
    assert cache.tensor("nothing", torch.float32, (4, -1)) is None


@pytest.fixture(params=["a file is in the way", "full", "full at the end", "read-only"])
def unusable(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder in which nothing can be kept."""
    if request.param == "a file is in the way":
        folder.write_text("")
    elif request.param == "read-only":
        make = Path.mkdir

        def refuse(path: Path, **how: Any) -> None:
            return raise_(errno.EROFS) if folder in [path, *path.parents] else make(path, **how)

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        whole = cache._seal if request.param == "full at the end" else None

        def full(name: str, file: BinaryIO, size: int) -> bytes:
            if whole:
                whole(name, file, size)
            raise_(errno.ENOSPC)

        monkeypatch.setattr(cache, "_seal", full)
    yield
    if folder.is_dir():
        assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def raise_(code: int) -> Any:
    raise OSError(code, os.strerror(code))


@pytest.mark.usefixtures("unusable")
def test_where_nothing_can_be_kept_everything_goes_on_with_one_warning() -> None:
    with pytest.warns(
        RuntimeWarning, match=r"cannot be written to \(.+\), so that .* set BENCH_DATA to a folder"
    ) as said:
        for _ in range(2):
            assert cache.remember("some", "key", lambda: {"a": 1}) == {"a": 1}
            assert torch.equal(cache.shared(pixels(), "key"), pixels())
            assert not cache.fill("other", 10, filled)
            assert cache.read("other") is None
    assert len(said) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_where_there_is_no_room_for_a_file_of_values_that_is_said(
    code: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_reserve", lambda file, size: raise_(code))
    with pytest.warns(RuntimeWarning, match="cannot be written to"):
        assert cache.scratch((3, 4), torch.float32) is None
    assert list(folder.iterdir()) == []


def test_a_file_of_values_has_no_name_and_holds_them(folder: Path) -> None:
    first, second = cache.scratch((3, 4), torch.float32), cache.scratch((3, 4), torch.float32)
    assert first is not None
    assert second is not None
    first.copy_(torch.arange(12.0).view(3, 4))
    second.zero_()
    assert torch.equal(first, torch.arange(12.0).view(3, 4))
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_read_is_computed_again(folder: Path) -> None:
    (folder / "some" / "key.json").mkdir(parents=True)
    with pytest.warns(RuntimeWarning) as said:
        assert cache.remember("some", "key", lambda: 3) == 3
    assert [str(one.message).partition("(")[2].partition(")")[0] for one in said] == ["Is a directory"] * 2


def test_an_error_while_a_file_is_filled_is_raised_and_leaves_none(folder: Path) -> None:
    def fails(values: Any) -> None:
        raise ValueError("picture.jpg cannot be read as a picture")

    with pytest.raises(ValueError, match=r"picture\.jpg"):
        cache.fill("some/file", 10, fails)
    assert list((folder / "some").iterdir()) == []


def test_a_key_depends_on_all_parts_and_their_order() -> None:
    keys = {
        cache.digest(parts) for parts in (["a", "b"], ["b", "a"], ["ab"], ["a", b"", "b"], ["a", "b", memoryview(b"")])
    }
    assert len(keys) == 5
    assert cache.digest([np.zeros((0, 3)).data]) == cache.digest([b""])
    assert json.loads(json.dumps(cache.digest(["a"]))) == cache.digest([b"a"])


def pictures(folder: Path) -> list[Path]:
    """Three of different sizes."""
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        values = np.arange(3 * 8 * (8 + index), dtype=np.uint8).reshape(8, 8 + index, 3)
        Image.fromarray(values).save(path)
    return paths


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "a bit", "another type"])
@pytest.mark.parametrize("kind", ["bin", "sizes"])
def test_damaged_pixels_are_decoded_again(kind: str, damage: str, folder: Path, tmp_path: Path) -> None:
    paths = pictures(tmp_path / "pictures")
    decoded(paths, "key")
    (kept,) = folder.rglob(f"*.{kind}")
    kept.write_bytes(DAMAGE[damage](kept.read_bytes()))
    with pytest.warns(RuntimeWarning, match="is damaged"):
        found = decoded(paths, "key")
    for index, path in enumerate(paths):
        assert np.array_equal(np.asarray(found[index]), np.asarray(Image.open(path)))
        assert tuple(found.sizes[index]) == (8, 8 + index)


@pytest.mark.usefixtures("unusable")
def test_pictures_are_decoded_each_time_where_no_pixels_can_be_kept(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "pictures")
    with pytest.warns(RuntimeWarning, match="cannot be written to") as said:
        found = decoded(paths, "key")
    assert len(said) == 1
    assert [found[index].size for index in range(3)] == [(8, 8), (9, 8), (10, 8)]
    assert found.sizes.tolist() == [[8, 8], [8, 9], [8, 10]]


def test_pixels_of_another_decoder_are_not_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = pictures(tmp_path / "pictures")
    decoded(paths, "key")
    monkeypatch.setattr(PIL, "__version__", "another")
    decoded(paths, "key")
    assert len(list(folder.rglob("*.bin"))) == 2
