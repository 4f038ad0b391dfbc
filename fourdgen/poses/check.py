"""check.png of both pose stages: a verdict, the frames beside the model from the solved poses, and the camera paths."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen.data.capture import write_png
from fourdgen.poses.compare import Fit
from fourdgen.poses.hypotheses import azimuths
from fourdgen.poses.pictures import spread

COLUMNS, CELL = 10, 128
WIDTH, HEIGHT = COLUMNS * CELL, 360  # of the whole picture, and of its part with the camera paths
MARKS = 12  # frames that have a dot on a camera path
# Eight clips at most: colours that people tell apart, the colour-blind too (after Okabe and Ito), none near the bars'.
COLORS = [
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (110, 60, 20), (90, 40, 160),
    (60, 60, 60),
]  # fmt: skip
GOOD, DOUBT, OUT, GREY = (222, 243, 222), (255, 214, 130), (250, 180, 170), (235, 235, 235)  # bars behind text


@dataclass(frozen=True)
class Block:
    """One clip of the picture: its bar (text, colour), rows of pictures 0..1, and its cameras, cam_from_root.

    Without `poses` the clip is not among the camera paths: it was left out.
    """

    name: str
    text: str
    bar: tuple[int, int, int]
    rows: list[Float[Tensor, "k s s 3"]]
    poses: Float[Tensor, "n 4 4"] | None = None


@torch.no_grad()
def block_of(
    name: str, fit: Fit, said: str = "", doubt: str = "", left_out: str = "", given: bool = False
) -> Block:  # fmt: skip
    """Filmed frames above the model from the same poses. `said`: what is known of the clip; `doubt`: why its poses
    are uncertain; `left_out`: why it takes no part; `given`: its cameras are the user's."""
    chosen = spread(len(fit.pictures), COLUMNS)
    rows = [fit.pictures.picture[chosen, :3].permute(0, 2, 3, 1), fit.render(chosen).rgb.clamp(0, 1)]
    if left_out:
        return Block(name, f"{name}: LEFT OUT: {left_out}", OUT, rows)
    state, bar = ("cameras given", GREY) if given else ("confident", GOOD)
    if doubt:
        state, bar = f"UNCERTAIN: {doubt}", DOUBT
    return Block(name, f"{name}: {state}" + (f" ({said})" if said else ""), bar, rows, fit.poses().detach())


def draw(blocks: list[Block], path: Path) -> None:
    """A verdict over all, one block per clip in its bar's colour, and below them the camera paths."""
    paths = [(block.name, block.poses) for block in blocks if block.poses is not None]
    colors = iter(COLORS * len(blocks))
    parts = [_bar(_verdict(blocks), max((block.bar for block in blocks), key=_ALARM.index), big=True)]
    for block in blocks:
        swatch = None if block.poses is None else next(colors)
        parts += [_bar(block.text, block.bar, swatch), *map(_strip, block.rows)]
    parts.append(camera_paths(paths))
    write_png(path, np.concatenate(parts))


_ALARM = [GOOD, GREY, DOUBT, OUT]


def _verdict(blocks: list[Block]) -> str:
    """All clips in one line, the doubtful first."""
    words = {OUT: "left out", DOUBT: "uncertain", GREY: "given", GOOD: "confident"}
    said = [
        f"{word}: {', '.join(block.name for block in blocks if block.bar == bar)}"
        for bar, word in words.items()
        if any(block.bar == bar for block in blocks)
    ]
    return "camera poses    " + "    ".join(said)


def of_clip(fit: Fit, clip: int) -> Fit:
    """One clip of a joint fit, as a fit of its own that shares the model."""
    rows = (fit.pictures.clip == clip).nonzero()[:, 0]
    pictures = fit.pictures[rows]
    pictures = replace(pictures, clip=torch.zeros_like(pictures.clip), extent=fit.pictures.extent[clip : clip + 1])
    single = Fit(
        pictures, fit.rotations().detach()[rows], fit.focal.detach().exp()[clip : clip + 1], 0, 0,
        model=fit.model, place=fit.place.detach()[rows],
    )  # fmt: skip
    if fit.nodes is not None:
        single.nodes = fit.nodes.of_rows(rows)
    return single


def outlined(
    pictures: Float[Tensor, "k s s 3"], outlines: Float[Tensor, "k s s"], color: tuple[int, int, int] = (230, 0, 160)
) -> Float[Tensor, "k s s 3"]:
    """The pictures, a little paler, with the outline of each mask (0..1) drawn over them, at the size of a cell."""
    drawn = []
    for picture, mask in zip(pictures, outlines, strict=True):
        large = cv2.resize(picture.numpy() * 0.6 + 0.4, (CELL, CELL), interpolation=cv2.INTER_LINEAR)
        shape = (cv2.resize(mask.numpy(), (CELL, CELL), interpolation=cv2.INTER_LINEAR) > 0.5).astype(np.uint8)
        contours, _ = cv2.findContours(shape, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(large, contours, -1, [c / 255 for c in color], 1, cv2.LINE_AA)
        drawn.append(torch.from_numpy(large))
    return torch.stack(drawn)


# ---- drawing


def _write(
    picture: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int], size: float = 0.45
) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def _bar(
    text: str, color: tuple[int, int, int], swatch: tuple[int, int, int] | None = None, big: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Text on a coloured bar, in as many lines as it needs; `swatch` is the clip's colour among the camera paths."""
    size, line = (0.6, 26) if big else (0.45, 20)
    lines = textwrap.wrap(text, 105 if big else 150, drop_whitespace=False) or [""]
    bar = np.full((line * len(lines) + 6, WIDTH, 3), color, np.uint8)
    if swatch is not None:
        cv2.rectangle(bar, (0, 0), (13, bar.shape[0]), swatch, -1)
    for number, part in enumerate(lines):
        _write(bar, part, (20, line * (number + 1) - 3), (30, 30, 30), size)
    return bar


def _strip(pictures: Float[Tensor, "k s s 3"]) -> UInt8[np.ndarray, "h w 3"]:
    strip = np.full((CELL, WIDTH, 3), 255, np.uint8)
    for i, picture in enumerate((pictures * 255).byte().numpy()):
        strip[:, i * CELL : (i + 1) * CELL] = cv2.resize(picture, (CELL, CELL), interpolation=cv2.INTER_LINEAR)
    return strip


def turned(poses: Float[Tensor, "n 4 4"]) -> str:
    """How far the subject turns before a camera, and in what sense, in the words of `--turn`."""
    angle = torch.rad2deg(azimuths(poses[:, :3, :3]))
    net, reach = float(angle[-1] - angle[0]), float(angle.max() - angle.min())
    if reach < 1:
        return "does not turn"
    words = f"turns by {abs(net):.0f} degrees " + ("cw" if net > 0 else "ccw")
    return words if reach - abs(net) < 10 else f"{words}, within {reach:.0f}"


def side_axis(eyes: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3"]:
    """The horizontal direction along which cameras lie farthest from the middle: seen across it, none stands before or
    behind the subject."""
    flat = eyes[:, [0, 2]]
    axis = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    axis = axis if axis @ flat.sum(0) >= 0 else -axis
    return np.array([axis[0], 0.0, axis[1]])


def camera_paths(paths: list[tuple[str, Float[Tensor, "n 4 4"]]]) -> UInt8[np.ndarray, "h w 3"]:
    """Camera centres from above (x to the right, z up the picture) and from the side, the subject in the middle: a ring
    where a clip begins, an arrow where it ends. Beside them which colour is which clip, and how far it turns."""
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    if not paths:
        return picture
    eyes = [-(p[:, :3, :3].transpose(1, 2) @ p[:, :3, 3:])[..., 0].double().numpy() for _, p in paths]
    scale = 0.43 * HEIGHT / max(1.0, max(float(np.linalg.norm(e, axis=1).max()) for e in eyes))
    x, y, z = np.eye(3)
    views = [("from above", x, -z), ("from the side", side_axis(np.concatenate(eyes)), y)]  # y points down already
    for place, (label, right, down) in enumerate(views):
        middle = np.array([HEIGHT // 2 + place * HEIGHT, HEIGHT // 2 + 6])
        cv2.circle(picture, middle.tolist(), max(3, int(0.85 * scale)), (225, 225, 225), -1, cv2.LINE_AA)
        _write(picture, "subject", (int(middle[0]) - 20, int(middle[1]) + 4), (120, 120, 120), 0.35)
        _write(picture, label, (place * HEIGHT + 8, 16), (90, 90, 90), 0.42)
        for number, eye in enumerate(eyes):
            points = middle + scale * np.stack([eye @ right, eye @ down], 1)
            _path(picture, points.round().astype(np.int32), COLORS[number % len(COLORS)])
    left = 2 * HEIGHT + 30
    for number, (name, poses) in enumerate(paths):
        top = 34 + 24 * number
        cv2.line(picture, (left, top - 5), (left + 26, top - 5), COLORS[number % len(COLORS)], 3, cv2.LINE_AA)
        _write(picture, f"{name}: {turned(poses)}", (left + 36, top), (30, 30, 30))
    _write(
        picture,
        "ring: first frame    arrow: last frame    dots: evenly in time",
        (left, HEIGHT - 16),
        (90, 90, 90),
        0.42,
    )
    return picture


def _path(picture: np.ndarray, points: np.ndarray, color: tuple[int, int, int]) -> None:
    cv2.polylines(picture, [points[:, None]], False, color, 1, cv2.LINE_AA)
    for i in spread(len(points), MARKS).tolist():
        cv2.circle(picture, points[i].tolist(), 3, color, -1, cv2.LINE_AA)
    cv2.circle(picture, points[0].tolist(), 7, color, 2, cv2.LINE_AA)
    # The arrow needs some length to be seen, and a path that stands still has no direction.
    far = [p for p in points[::-1] if np.linalg.norm(points[-1] - p) > 8]
    if far:
        toward = (points[-1] - far[0]) / np.linalg.norm(points[-1] - far[0])
        tip = (points[-1] + 14 * toward).round().astype(int)
        cv2.arrowedLine(picture, points[-1].tolist(), tip.tolist(), color, 2, cv2.LINE_AA, tipLength=0.7)
