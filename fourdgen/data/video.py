"""Video files in and out. Nothing else in fourdgen decodes or encodes video.

PyAV brings FFmpeg along, so that every common codec is read. Three things are done here because no caller should have
to think of them: the rotation that phones write beside the picture, pixels that are not square, and the time of each
frame, which comes from the stream and never from index / fps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.filter
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from fourdgen.disk import whole, write_atomically
from fourdgen.report import FourdgenError, Reporter, Silent, absent

NOT_VIDEO = {"tty", "ans", "bin", "xbin"}  # FFmpeg renders text files with these; nobody means that
WHOLE = 0.9  # of the frames that a file claims: cuts at key frames and edit lists may hide some
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these drop the alpha layer


@dataclass(frozen=True)
class VideoFrame:
    """`picture`: [h w 3] RGB or [h w 4] RGBA (straight), upright, square pixels. `seconds` since the first frame.

    `size` (w, h) is what the picture measures in the source, before any reduction; `index` counts decoded frames.
    """

    picture: UInt8[np.ndarray, "h w c"]
    seconds: float
    index: int
    size: tuple[int, int]


def reduced(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """`size` (w, h) made smaller so that its longer side is at most `longest`. Never larger."""
    if not longest or max(size) <= longest:
        return size
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_video(
    path: Path, longest: int | None = None, keep: frozenset[int] | None = None, report: Reporter = Silent()
) -> Iterator[VideoFrame]:
    """Decoded frames in the order of their times.

    longest: reduce pictures to this longer side. keep: yield only frames with these presentation times (in ticks of the
    stream, from `frame_ticks`); the others are decoded and dropped. Frames without a later time than the one before are
    left out. A file that breaks off ends there, with a warning. Raises FourdgenError when nothing can be read.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first = last = None
        index = -1
        for frame in _decoded(container, stream, path, report):
            seconds = _seconds(frame, stream, index + 1)
            if last is not None and seconds <= last:
                continue
            index += 1
            last = seconds
            first = seconds if first is None else first
            if keep is not None and frame.pts not in keep:
                continue
            picture, size = _upright(frame, stream, longest)
            yield VideoFrame(picture, seconds - first, index, size)
        if index < 0:
            raise FourdgenError(f"{path}: this video has no frames", "play it to see whether it is whole")


def frame_ticks(path: Path) -> list[int]:
    """Presentation times of all frames in ticks of the stream, ascending, without decoding (almost free)."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        if packets and all(p.pts is not None for p in packets):
            return sorted({int(p.pts) for p in packets if p.pts is not None})
    with _opened(path) as container:  # Some old containers carry no times before decoding.
        frames = _decoded(container, container.streams.video[0], path, Silent())
        return sorted({int(f.pts) for f in frames if f.pts is not None})


def probe(path: Path) -> tuple[int, tuple[int, int]]:
    """(number of frames that can be decoded, but at most 2; upright size (w, h)). Raises FourdgenError: not a video."""
    count, size = 0, (0, 0)
    for frame in read_video(path):
        count, size = count + 1, frame.size
        if count == 2:
            break
    return count, size


def _opened(path: Path) -> InputContainer:
    hint = "give a video file (mp4, mov, webm, gif, ...) or a folder of pictures"
    try:
        container = av.open(str(path))
    except FileNotFoundError as error:
        raise absent(path, hint) from error
    except (av.FFmpegError, ValueError) as error:
        empty = path.is_file() and path.stat().st_size == 0
        raise FourdgenError(f"{path}: not a video" + (": the file is empty" if empty else ""), hint) from error
    names = set(container.format.name.split(","))
    if not container.streams.video or names & NOT_VIDEO:
        container.close()
        said = "not a video" if names & NOT_VIDEO else "no pictures in it, only sound"
        raise FourdgenError(f"{path}: {said}", hint)
    return container


def _decoded(container: InputContainer, stream: VideoStream, path: Path, report: Reporter) -> Iterator[av.VideoFrame]:
    """Decodes until the end or until the data break off."""
    decoder: VideoCodecContext | None = None
    name = stream.codec_context.name
    if name in ALPHA_DECODERS and stream.metadata.get("alpha_mode") == "1":
        decoder = cast(VideoCodecContext, av.CodecContext.create(ALPHA_DECODERS[name], "r"))
        decoder.extradata = stream.codec_context.extradata
    count = 0
    try:
        for packet in container.demux(stream):
            frames = decoder.decode(packet if packet.size else None) if decoder else packet.decode()
            for frame in frames:
                if decoder and frame.time_base is None:
                    frame.time_base = stream.time_base
                count += 1
                yield frame
    except av.FFmpegError as error:
        if count == 0:
            raise FourdgenError(
                f"{path}: this video cannot be decoded ({error.strerror})", "convert it first"
            ) from error
        report.warn(f"{path.name}: the video breaks off after {count} frames; the rest is missing")
    else:
        # Some decoders swallow the error; what the file says of itself then tells that much is missing.
        if 0 < count < WHOLE * stream.frames:
            report.warn(f"{path.name}: the video breaks off: {count} of its {stream.frames} frames are there")


def _seconds(frame: av.VideoFrame, stream: VideoStream, index: int) -> float:
    """Time of a frame in its stream."""
    if frame.pts is not None:
        return float(frame.pts * (frame.time_base or stream.time_base or Fraction(1)))
    return index / float(stream.average_rate or 24)  # No time anywhere in the file: the rate is all there is.


def _upright(
    frame: av.VideoFrame, stream: VideoStream, longest: int | None
) -> tuple[UInt8[np.ndarray, "h w c"], tuple[int, int]]:
    """The picture as a viewer shows it, and its size (w, h) in the source."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect <= 0:
        aspect = Fraction(1)
    size = (max(1, round(frame.width * aspect)), frame.height)
    small = reduced(size, longest)
    alpha = frame.format.name == "pal8" or any(c.is_alpha for c in frame.format.components)
    form = "rgba" if alpha else "rgb24"
    if small == (frame.width, frame.height):
        picture = frame.to_ndarray(format=form)
    elif alpha:
        picture = resized(frame.to_ndarray(format=form), small)
    else:
        picture = frame.reformat(small[0], small[1], form, interpolation="AREA").to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as FFmpeg's display matrix says it
    if turns % 2:
        size = (size[1], size[0])
    return np.ascontiguousarray(np.rot90(picture, turns)), size


def resized(picture: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """A picture at another size (w, h). RGBA is averaged premultiplied, so that hidden colours do not bleed in."""
    import cv2

    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    smaller = size[0] < picture.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    if picture.shape[2] == 3:
        return cv2.resize(picture, size, interpolation=how)
    alpha = picture[..., 3:].astype(np.float32)
    mixed = cv2.resize(np.concatenate([picture[..., :3] * (alpha / 255), alpha], -1), size, interpolation=how)
    mixed[..., :3] = mixed[..., :3] / np.maximum(mixed[..., 3:] / 255, 1e-3)
    return np.asarray(mixed.clip(0, 255).round().astype(np.uint8))


def write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float) -> None:
    """H.264 in an mp4 that browsers play: yuv420p, even sizes (the last row or column is repeated), index in front.

    The file appears under its name only when it is whole. Raises ValueError when there are no frames.
    """
    flags = {"movflags": "+faststart"}
    with whole(path) as part, av.open(str(part), "w", format="mp4", options=flags) as container:
        stream = None
        for frame in frames:
            height, width = frame.shape[0] + frame.shape[0] % 2, frame.shape[1] + frame.shape[1] % 2
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "18", "preset": "fast"}
                # Players guess the colour matrix from the size unless the file says it.
                context = stream.codec_context
                context.colorspace, context.color_range, context.color_primaries, context.color_trc = 1, 1, 1, 1
            if frame.shape[:2] != (height, width):
                frame = np.pad(frame, [(0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)], "edge")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(
                format="yuv420p", dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG"
            )
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError("a video needs at least one frame")
        container.mux(stream.encode(None))


def write_gif(path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float) -> None:
    """An endless GIF with one palette made for all its frames. Times are rounded to 1/100 s, as the format demands."""
    with whole(path) as part, av.open(str(part), "w", format="gif", options={"loop": "0"}) as container:
        stream = None
        for number, picture in enumerate(_palette_frames(frames)):
            if stream is None:
                stream = container.add_stream("gif", rate=100)
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "pal8"
                stream.codec_context.time_base = Fraction(1, 100)
            picture.pts, picture.time_base = round(number * 100 / fps), Fraction(1, 100)
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError("a GIF needs at least one frame")
        container.mux(stream.encode(None))


def write_webp(path: Path, frames: Iterable[UInt8[np.ndarray, "h w c"]], fps: float, quality: int = 90) -> None:
    """An endless animated WebP of RGB or RGBA (straight) frames. Times are in milliseconds.

    The file appears under its name only when it is whole. Raises ValueError when there are no frames.
    """
    with whole(path) as part, av.open(str(part), "w", format="webp", options={"loop": "0"}) as container:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libwebp_anim", rate=1000)
                stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], "bgra"
                stream.codec_context.time_base = Fraction(1, 1000)
                stream.options = {"quality": str(quality)}
            form = "rgba" if frame.shape[2] == 4 else "rgb24"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=form).reformat(format="bgra")
            picture.pts, picture.time_base = round(number * 1000 / fps), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError("an animation needs at least one frame")
        container.mux(stream.encode(None))


def write_exr(path: Path, values: Float[np.ndarray, "h w"]) -> None:
    """One channel (Y) of 32-bit floats as an OpenEXR file, compressed without loss."""
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(values, dtype=np.float32), format="grayf32le")
    encoder = av.CodecContext.create("exr", "w")
    encoder.height, encoder.width = values.shape
    encoder.pix_fmt, encoder.time_base, encoder.options = "grayf32le", Fraction(1, 25), {"compression": "zip16"}
    packets = [*encoder.encode(picture), *encoder.encode(None)]
    write_atomically(path, b"".join(bytes(packet) for packet in packets))


def _palette_frames(frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Iterator[av.VideoFrame]:
    graph = None
    for number, frame in enumerate(frames):
        if graph is None:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.shape[1], height=frame.shape[0], format=av.VideoFormat("rgb24"), time_base=Fraction(1, 100)
            )
            split, make = graph.add("split"), graph.add("palettegen", "stats_mode=full:reserve_transparent=0")
            use, sink = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle"), graph.add("buffersink")
            source.link_to(split)
            split.link_to(make, 0, 0)
            split.link_to(use, 1, 0)
            make.link_to(use, 0, 1)
            use.link_to(sink)
            graph.configure()
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = number, Fraction(1, 100)
        graph.push(picture)
    if graph is None:
        return
    graph.push(None)
    while True:
        try:
            yield cast(av.VideoFrame, graph.pull())
        except (av.EOFError, av.BlockingIOError):
            return
