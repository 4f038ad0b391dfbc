"""Names, orders and times of what a person hands in."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from fourdgen.data import sources
from fourdgen.data.picture_size import quick_size
from fourdgen.report import FourdgenError


def pictures(folder: Path, names: list[str], channels: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((40, 60, channels), 10 * i, np.uint8))
    return folder


def test_natural_order(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", ["f10.png", "f9.png", "f1.png", ".hidden.png"])
    assert [p.name for p in sources.pictures_in(folder)] == ["f1.png", "f9.png", "f10.png"]


def test_clip_names_are_stems_made_unique(tmp_path: Path) -> None:
    paths = [tmp_path / p for p in ("walk.mp4", "x/a.mp4", "y/a.mp4", "z/x/a.mp4")]
    assert sources.clip_names(paths) == ["walk", "x-a", "y-a", "x-a-2"]
    # The folder that differs may lie further up.
    far = [Path(p) for p in ("/films/fox/clips/a.mp4", "/films/shiba/clips/a.mp4", "/films/shiba/clips/b.mp4")]
    assert sources.clip_names(far) == ["fox-a", "shiba-a", "b"]
    assert sources.clip_names([pictures(tmp_path / "take.01", ["0.png"])]) == ["take.01"]


def test_evenly_is_even_in_time_and_keeps_the_ends() -> None:
    assert sources.evenly(range(10), 0) == list(range(10))
    assert sources.evenly(range(101), 5) == [0, 25, 50, 75, 100]
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 100]  # evenly in time, not in number
    assert sources.evenly(times, 3) in ([0, 8, 9], [0, 9])


def test_folder_times(tmp_path: Path) -> None:
    source = sources.open_source(pictures(tmp_path / "in", ["0.png", "1.png", "2.png"]))
    assert sources.picture_times(source, 10) == pytest.approx([0, 0.1, 0.2])
    (source.path / sources.TIMES).write_text("5.0\n5.5\n7.0\n")
    assert sources.picture_times(source, 10) == pytest.approx([0, 0.5, 2.0])
    (source.path / sources.TIMES).write_text("5.0\n5.5\n")
    with pytest.raises(FourdgenError, match="2 times for 3 pictures"):
        sources.picture_times(source, 10)


def test_folders_without_pictures_say_what_to_give(tmp_path: Path) -> None:
    pictures(tmp_path / "rgba" / "a", ["0.png"])
    with pytest.raises(FourdgenError) as error:
        sources.open_source(tmp_path / "rgba")
    assert str(tmp_path / "rgba" / "a") in error.value.hint
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    with pytest.raises(FourdgenError, match="a folder of videos"):
        sources.open_source(tmp_path / "videos")


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", ["0.png", "1.png"])
    cv2.imwrite(str(folder / "1.png"), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(FourdgenError, match="10x10, but the first picture of its folder is 60x40"):
        list(sources.read_source(sources.open_source(folder)))


def test_read_picture_depths_and_channels(tmp_path: Path) -> None:
    color = np.zeros((4, 5, 4), np.uint16)
    color[...] = (257 * 30, 257 * 20, 257 * 10, 65535)  # BGRA, 16 bit
    cv2.imwrite(str(tmp_path / "deep.png"), color)
    assert sources.read_picture(tmp_path / "deep.png")[0, 0].tolist() == [10, 20, 30, 255]
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 5), 7, np.uint8))
    assert sources.read_picture(tmp_path / "grey.png")[0, 0].tolist() == [7, 7, 7]
    cv2.imwrite(str(tmp_path / "ones.png"), np.eye(4, dtype=np.uint8))
    assert sources.read_mask(tmp_path / "ones.png")[0].tolist() == [255, 0, 0, 0]


def test_the_size_of_a_picture_is_known_without_decoding_it(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)
    for kind in ("png", "jpg", "webp", "bmp"):
        path = tmp_path / f"a.{kind}"
        cv2.imwrite(str(path), picture)
        assert sources.picture_size(path) == (50, 30)
        assert (quick_size(path) is None) == (kind in ("webp", "bmp"))
    for kind in ("png", "jpg"):  # cut off after the header: decoding would fail, the size is known
        (tmp_path / f"b.{kind}").write_bytes((tmp_path / f"a.{kind}").read_bytes()[:-200])
        assert sources.picture_size(tmp_path / f"b.{kind}") == (50, 30)
    for content in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\x00", b"\x89PNG\r\n\x1a\n", b"hello"):
        (tmp_path / "c.jpg").write_bytes(content)
        assert quick_size(tmp_path / "c.jpg") is None


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_photo_that_lies_on_its_side_is_measured_as_it_is_shown(tmp_path: Path, orientation: int, order: str) -> None:
    plain = cv2.imencode(".jpg", np.full((30, 50, 3), 128, np.uint8))[1].tobytes()
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    tiff += struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "a.jpg"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    shown = sources.read_picture(path)
    assert quick_size(path) == (shown.shape[1], shown.shape[0]) == ((50, 30) if orientation < 5 else (30, 50))


def test_frames_are_chosen_among_those_that_may_be(tmp_path: Path) -> None:
    source = sources.open_source(pictures(tmp_path / "a", [f"{i}.png" for i in range(10)]))
    assert sources.chosen_frames(source, 0) == list(range(10))
    assert sources.chosen_frames(source, 3, among=[8, 2, 3, 4, 99]) == [2, 4, 8]
