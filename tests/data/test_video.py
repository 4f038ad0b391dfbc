"""Videos that are made here: whatever is read must be what was drawn, upright and at its own times."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest

from fourdgen.data import video
from fourdgen.report import FourdgenError


def corner_picture(width: int = 96, height: int = 64, blue: int = 0) -> np.ndarray:
    """Grey with a red patch at the top left and a green one at the top right: every turn of it is recognised."""
    picture = np.full((height, width, 3), (110, 110, 110 + blue), np.uint8)
    picture[: height // 3, : width // 3] = (220, 30, 30)
    picture[: height // 3, -(width // 3) :] = (30, 200, 30)
    return picture


def encode(path: Path, pictures: list[np.ndarray], ticks: list[int], codec: str = "libx264", **options: str) -> None:
    """Frames at times `ticks` / 1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuva420p" if pictures[0].shape[2] == 4 else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = options
        for picture, tick in zip(pictures, ticks):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def turn_clockwise(path: Path, width: int, height: int, quarters: int) -> None:
    """Writes the rotation that phones write: the matrix of the track header of an mp4."""
    data = bytearray(path.read_bytes())
    a, b, c, d, x, y = {1: (0, 1, -1, 0, height, 0), 2: (-1, 0, 0, -1, width, height), 3: (0, -1, 1, 0, 0, width)}[
        quarters
    ]
    place = data.index(b"tkhd") + 4 + 40  # version 0: the matrix starts 40 bytes into the box
    one = 1 << 16
    struct.pack_into(">9i", data, place, a * one, b * one, 0, c * one, d * one, 0, x * one, y * one, 1 << 30)
    path.write_bytes(bytes(data))


def test_written_video_reads_back_the_same(tmp_path: Path) -> None:
    pictures = [corner_picture(97, 65, blue) for blue in range(0, 60, 5)]
    video.write_video(tmp_path / "a.mp4", pictures, 12.5)
    frames = list(video.read_video(tmp_path / "a.mp4"))
    assert [f.index for f in frames] == list(range(12))
    assert frames[0].size == (98, 66)  # odd sizes are filled up, because yuv420p has none
    assert [f.seconds for f in frames] == pytest.approx([i / 12.5 for i in range(12)])
    for frame, picture in zip(frames, pictures):
        flat = np.abs(frame.picture[30:60, 35:60].astype(int) - picture[30:60, 35:60]).max()
        assert flat <= 4  # rounding of YUV and of quality 18
        red = np.abs(frame.picture[4:16, 4:26].astype(int) - (220, 30, 30)).mean()
        assert red <= 5  # 15 with the other colour matrix


def test_written_video_can_be_streamed_and_says_its_colours(tmp_path: Path) -> None:
    video.write_video(tmp_path / "a.mp4", [corner_picture()] * 3, 24)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert next(container.decode(stream)).colorspace == 1  # BT.709
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_failing_frame_leaves_no_file(tmp_path: Path) -> None:
    def frames():
        for seed in range(80):  # more than the encoder holds back, so that the file has begun
            yield np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        video.write_video(tmp_path / "a.mp4", frames(), 24)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_phone_rotation_is_applied(tmp_path: Path, quarters: int) -> None:
    picture = corner_picture()
    encode(tmp_path / "a.mp4", [picture] * 3, [0, 40, 80])
    turn_clockwise(tmp_path / "a.mp4", 96, 64, quarters)
    frame = next(video.read_video(tmp_path / "a.mp4"))
    wanted = np.rot90(picture, -quarters)
    assert frame.size == (wanted.shape[1], wanted.shape[0])
    assert frame.picture.shape == wanted.shape
    assert np.abs(frame.picture.astype(int) - wanted).mean() < 4
    small = next(video.read_video(tmp_path / "a.mp4", longest=48))
    assert max(small.picture.shape[:2]) == 48
    assert (small.picture.shape[0] > small.picture.shape[1]) == (wanted.shape[0] > wanted.shape[1])


def test_times_come_from_the_stream(tmp_path: Path) -> None:
    ticks = [500, 540, 700, 733, 1400]  # neither even nor from zero
    encode(tmp_path / "a.mp4", [corner_picture(blue=10 * i) for i in range(5)], ticks)
    seconds = [f.seconds for f in video.read_video(tmp_path / "a.mp4")]
    assert seconds == pytest.approx([(t - 500) / 1000 for t in ticks], abs=1e-3)
    in_file = video.frame_ticks(tmp_path / "a.mp4")
    assert len(in_file) == 5
    kept = list(video.read_video(tmp_path / "a.mp4", keep=frozenset([in_file[0], in_file[3]])))
    assert [f.index for f in kept] == [0, 3]
    assert kept[1].seconds == pytest.approx(0.233, abs=1e-3)


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx-vp9"), ("a.mp4", "libsvtav1"), ("a.avi", "mpeg4")])
def test_other_codecs(tmp_path: Path, name: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    encode(tmp_path / name, [corner_picture(128, 96)] * 4, [0, 33, 67, 100], codec)
    frames = list(video.read_video(tmp_path / name))
    assert len(frames) == 4
    assert np.abs(frames[2].picture.astype(int) - corner_picture(128, 96)).mean() < 6


def test_alpha_of_a_webm_is_kept(tmp_path: Path) -> None:
    picture = np.dstack([corner_picture(128, 96), np.zeros((96, 128), np.uint8)])
    picture[20:70, 30:90, 3] = 255
    encode(tmp_path / "a.webm", [picture] * 3, [0, 40, 80], "libvpx-vp9")
    frame = next(video.read_video(tmp_path / "a.webm"))
    assert frame.picture.shape == (96, 128, 4)
    assert np.abs(frame.picture[..., 3].astype(int) - picture[..., 3]).mean() < 4


def test_gif_there_and_back(tmp_path: Path) -> None:
    pictures = [corner_picture(blue=blue) for blue in (0, 40, 80, 120)]
    video.write_gif(tmp_path / "a.gif", pictures, 10)
    frames = list(video.read_video(tmp_path / "a.gif"))
    assert [f.seconds for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert np.abs(frames[3].picture[..., :3].astype(int) - pictures[3]).max() <= 3  # few colours: the palette has all


def test_reducing_rgba_keeps_hidden_colours_out() -> None:
    picture = np.full((8, 8, 4), (0, 255, 0, 0), np.uint8)  # a green that nobody sees
    picture[:, :5] = (200, 100, 50, 255)
    small = video.resized(picture, (4, 4))
    assert small[:, 2, 3].tolist() == [128] * 4
    assert np.abs(small[:, 2, :3].astype(int) - (200, 100, 50)).max() <= 1


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a video\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    said_of = {
        "notes.txt": "notes.txt: not a video$", "empty.mp4": "not a video: the file is empty",
        "sound.mp4": "no pictures in it, only sound", "none.mp4": "no such file",
    }  # fmt: skip
    for name, said in said_of.items():
        with pytest.raises(FourdgenError, match=said):
            video.probe(tmp_path / name)


def test_a_video_whose_end_is_missing_says_so(tmp_path: Path) -> None:
    class Listener:
        warnings: ClassVar[list[str]] = []

        def emit(self, event: str, **fields: object) -> None: ...

        def warn(self, message: str) -> None:
            self.warnings.append(message)

    noise = np.random.default_rng(0)
    video.write_video(tmp_path / "a.mp4", [noise.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(20)], 12)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    assert len(list(video.read_video(tmp_path / "a.mp4", report=Listener()))) == 20
    assert Listener.warnings == []
    assert len(list(video.read_video(tmp_path / "cut.mp4", report=Listener()))) < 18
    (warning,) = Listener.warnings
    assert warning.startswith("cut.mp4: the video breaks off")


def test_a_video_that_breaks_off_gives_what_it_has(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 255, (64, 96, 3), np.uint8) for i in range(30)]
    encode(tmp_path / "whole.avi", pictures, [i * 40 for i in range(30)], "mpeg4")
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    assert 2 <= len(list(video.read_video(tmp_path / "half.avi"))) < 30
