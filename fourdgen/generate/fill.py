"""The generator that needs no weights: filmed pixels carried along the asset's surface, then inpainting.

For each pixel of a new view, the surfels painted there say where that piece of surface was in every filmed frame. The
frames that saw it vote: where the asset is not confident, half of the colour becomes their median, if they agree on it.
What is left and cannot be trusted comes from the mirror side of a subject that is plainly symmetric, then from
classical inpainting (docs/method.md 11.4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fourdgen import weights
from fourdgen.data.capture import Frame
from fourdgen.fit.metrics import mask_box
from fourdgen.generate import Footage, Generated, Guide
from fourdgen.generate.symmetry import Mirror, find_mirror
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import quat_conjugate, quat_multiply, quat_to_matrix
from fourdgen.render import Rasterizer, draw
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import Reporter
from fourdgen.scene.surfels import Surfels

NEAR = 0.03  # root units: a surface that lies deeper than what the frame shows is hidden there
STEEP = 0.25  # cosine below which a surface is seen too flatly to lend its colour
AGREE = 0.10  # median distance of the frames' colours of one piece of surface to their median (largest channel)
VOTERS = 3  # frames that have to see a piece of surface
SHARE = 0.5  # how much of a low-confidence pixel becomes what was filmed: either may be misplaced, and errors differ
BORROWED = 0.25  # the same for what the mirror side lends
SMOOTH = 5  # pixels: side of the window over which carried colours are averaged, as misplaced edges hurt most
CONFIDENT = 0.5  # pixels that are surer than this stay as the asset shows them
DOUBT = 0.15  # confidence below which paint is better than what the asset shows


@dataclass(frozen=True)
class _Tools:
    """What is looked into for every view of one asset."""

    footage: Footage
    side: int  # of the filmed frames as they are looked into, pixels
    rasterizer: Rasterizer
    filmed: _FilmedViews
    mirror: Mirror | None
    painter: Painter


@dataclass(frozen=True)
class Fill:
    """Settings of the generator `fill`."""

    sources: int = 16  # filmed frames, evenly over all, that are looked into for each new frame
    mirror: bool = True  # borrow from the other side where the subject is plainly symmetric
    device: str = "cpu"
    _tools: list[_Tools] = field(default_factory=list, init=False, repr=False, compare=False)

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        """The guide where it is confident; elsewhere half of it is filmed colour where frames agree, then paint."""
        tools = self._tools_for(footage, max(guide.cameras.size), report)
        pictures, shares = [], []
        for t in range(len(guide)):
            color, share = self._filmed(guide, t, tools, None)
            if tools.mirror is not None:
                other, more = self._filmed(guide, t, tools, tools.mirror)
                borrowed = (share == 0) & (more > 0)
                color, share = torch.where(borrowed[..., None], other, color), torch.where(borrowed, BORROWED, share)
            pictures.append(_compose(guide, t, color, share, tools.painter))
            shares.append(share)
            report.emit("step", stage="regenerate", step=t + 1, total=len(guide))
        return Generated(torch.stack(pictures), guide.alpha, torch.stack(shares))

    def _tools_for(self, footage: Footage, side: int, report: Reporter) -> _Tools:
        """What all views of one asset share is made for the first of them."""
        if not self._tools or self._tools[0].footage is not footage or self._tools[0].side != side:
            rasterizer = rasterizer_on(self.device)
            mirror = find_mirror(footage.scene.surfels) if self.mirror else None
            if mirror is not None:
                said = f"the subject is symmetric (residual {mirror.residual:.2f}): sides borrow colours"
                report.emit("note", text=said)
            filmed = _FilmedViews(footage, side, rasterizer)
            self._tools[:] = [_Tools(footage, side, rasterizer, filmed, mirror, load_painter(report))]
        return self._tools[0]

    @torch.no_grad()
    def _filmed(
        self, guide: Guide, t: int, tools: _Tools, mirror: Mirror | None
    ) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
        """Colour of each low-confidence pixel's piece of surface in the filmed frames, and how much of it counts."""
        scene, rasterizer = tools.footage.scene, tools.rasterizer
        window = _subject_window(guide.alpha[t])
        camera = _cut(guide.cameras[t], window)
        state = scene.at(guide.clip, float(guide.seconds[t]))
        shown = draw(state, camera, rasterizer=rasterizer)
        depth = shown.depth[0] / shown.alpha[0].clamp_min(1e-4)
        here = _unproject(depth, camera)
        inside = shown.alpha[0] > 0.5
        found, shares = [], []
        for name, index in tools.filmed.spread(self.sources, t):
            other = scene.at(name, float(scene.clips[name].seconds[index]))
            there = _carried(here, state, other, scene.surfels, camera, rasterizer, mirror)
            color, weight = tools.filmed.look_up(name, index, there)
            found.append(color)
            shares.append((weight > 0) & inside)
        color, share = torch.zeros_like(guide.rgb[t]), torch.zeros_like(guide.alpha[t])
        median, agreed = typical(torch.stack(found), torch.stack(shares))
        color[window] = smoothed(median, agreed)
        share[window] = SHARE * (agreed & (guide.confidence[t][window] < CONFIDENT))
        return color, share


def typical(
    colors: Float[Tensor, "s h w 3"], seen: Bool[Tensor, "s h w"]
) -> tuple[Float[Tensor, "h w 3"], Bool[Tensor, "h w"]]:
    """Per channel the median over the frames that see a place, and whether VOTERS frames do and agree: the median
    distance of their colours to it is below AGREE. 0 where no frame sees."""
    known = torch.where(seen[..., None], colors, torch.full_like(colors, float("nan")))
    median = known.nanmedian(0).values
    apart = (known - median).abs().amax(-1).nanmedian(0).values
    return torch.nan_to_num(median), (seen.sum(0) >= VOTERS) & (apart < AGREE)


def smoothed(color: Float[Tensor, "h w 3"], where: Bool[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Means over SMOOTH x SMOOTH pixels, of those that count."""
    counts = where.float()[None, None]
    both = torch.cat([(color * where[..., None]).permute(2, 0, 1)[None], counts], 1)
    sums = F.avg_pool2d(both, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)[0].permute(1, 2, 0)
    return sums[..., :3] / sums[..., 3:].clamp_min(1e-4)


def _subject_window(alpha: Float[Tensor, "h w"]) -> tuple[slice, slice]:
    """Rows and columns that hold the subject: what lies outside costs as much and is white."""
    box = mask_box(alpha > 0.5)
    return box if box is not None else (slice(0, 1), slice(0, 1))


def _cut(camera: Cameras, window: tuple[slice, slice]) -> Cameras:
    """The camera whose picture is a window of another's."""
    rows, columns = window
    K = camera.K.clone()
    K[:, 0, 2] -= columns.start
    K[:, 1, 2] -= rows.start
    return Cameras(camera.cam_from_world, K, (columns.stop - columns.start, rows.stop - rows.start))


def _unproject(depth: Float[Tensor, "h w"], camera: Cameras) -> Float[Tensor, "h w 3"]:
    """World points of a depth map."""
    pose = camera.cam_from_world[0]
    return (camera.rays()[0] * depth[..., None] - pose[:3, 3]) @ pose[:3, :3]


def _carried(
    here: Float[Tensor, "h w 3"],
    state: Surfels,
    other: Surfels,
    rest: Surfels,
    camera: Cameras,
    rasterizer: Rasterizer,
    mirror: Mirror | None,
) -> Float[Tensor, "h w 3"]:
    """Where the surface seen in each pixel is in another state: each surfel's rigid motion, blended as it is painted.

    The motion of surfel k between the states is x -> R x + T; its twelve numbers are drawn as if they were colours.
    With a mirror, the piece of surface is that of the mirrored surfel.
    """
    if mirror is None:
        turn = quat_to_matrix(quat_multiply(_unit(other.quats), quat_conjugate(_unit(state.quats))))
        shift = other.means - (turn @ state.means[..., None])[..., 0]
    else:
        turn, shift = mirror.carry(rest, state, other)
    ink = torch.cat([turn.flatten(1), shift], 1)
    out = rasterizer(state.means, state.quats, state.log_scales.exp(), torch.sigmoid(state.opacity), ink, camera)
    motion = out.rgb[0] / out.alpha[0].clamp_min(1e-4)[..., None]
    return (motion[..., :9].unflatten(-1, (3, 3)) @ here[..., None])[..., 0] + motion[..., 9:]


def _unit(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    return F.normalize(quats, dim=-1)


@dataclass(frozen=True)
class _Filmed:
    """One filmed frame at working size, and the surface that the asset has in it."""

    camera: Cameras
    rgb: Float[Tensor, "h w 3"]
    mask: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]  # 0 where there is no surface
    normal: Float[Tensor, "h w 3"]


class _FilmedViews:
    """Filmed frames, read and rendered when they are first needed."""

    def __init__(self, footage: Footage, side: int, rasterizer: Rasterizer) -> None:
        self._footage, self._side, self._rasterizer = footage, side, rasterizer
        self._kept: dict[tuple[str, int], _Filmed] = {}
        self._names = footage.frames()

    def spread(self, count: int, shift: int) -> list[tuple[str, int]]:
        """About `count` frames, evenly over all that may be looked at, others for each `shift`. Frames from far away
        are misplaced in other ways than near ones, so they make better voters."""
        step = max(1, round(len(self._names) / count))
        return self._names[shift % step :: step]

    def look_up(
        self, name: str, index: int, points: Float[Tensor, "h w 3"]
    ) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
        """Colour of world points in a filmed frame, and a weight: squared cosine where in sight, else 0."""
        filmed = self._of(name, index)
        pixels, depth = filmed.camera.project(points.reshape(-1, 3))
        width, height = filmed.camera.size
        place = (pixels[0] / torch.tensor([width, height]) * 2 - 1).reshape(1, *points.shape[:2], 2)
        layers = torch.cat([filmed.rgb, filmed.mask[..., None], filmed.depth[..., None], filmed.normal], -1)
        values = F.grid_sample(layers.permute(2, 0, 1)[None], place, align_corners=False)[0].permute(1, 2, 0)
        color = values[..., :3] / values[..., 3:4].clamp_min(1e-3)
        ray = F.normalize(points - filmed.camera.centers()[0], dim=-1)
        cosine = -(F.normalize(values[..., 5:8], dim=-1) * ray).sum(-1)
        in_sight = (values[..., 3] > 0.9) & ((depth[0].reshape(points.shape[:2]) - values[..., 4]).abs() < NEAR)
        return color.clamp(0, 1), cosine.clamp(0, 1) ** 2 * (in_sight & (cosine > STEEP))

    def _of(self, name: str, index: int) -> _Filmed:
        key = (name, index)
        if key not in self._kept:
            clip, frame = self._footage.scene.clips[name], self._footage.capture.frame(name, index)
            camera = clip.cameras[index].shrunk(self._side)
            surfels = self._footage.scene.at(name, float(clip.seconds[index]))
            out = draw(surfels, camera, rasterizer=self._rasterizer)
            depth = out.depth[0] / out.alpha[0].clamp_min(1e-4) * (out.alpha[0] > 0.5)
            rgb, mask = _small(frame, camera.size)
            self._kept[key] = _Filmed(camera, rgb, mask, depth, out.normal[0])
        return self._kept[key]


def _small(frame: Frame, size: tuple[int, int]) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """Premultiplied colour and mask (0 where the frame does not count) at another size."""
    mask = frame.mask * (frame.weight > 0.5)
    stacked = torch.cat([frame.rgb * mask[..., None], mask[..., None]], -1).permute(2, 0, 1)[None]
    small = F.interpolate(stacked, (size[1], size[0]), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    return small[..., :3].contiguous(), small[..., 3].contiguous()


# --------------------------------------------------------------------------------------------------------------
# What no frame shows.


class Painter:
    """Classical inpainting (Telea 2004)."""

    def paint(self, rgb: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """The picture with its hole filled."""
        return cv2.inpaint(rgb, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)


class MiGan(Painter):
    """MI-GAN (Sargsyan et al. 2023), through onnxruntime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def paint(self, rgb: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        known = np.where(hole, 0, 255).astype(np.uint8)[None, None]
        picture = np.ascontiguousarray(rgb.transpose(2, 0, 1))[None]
        names = [given.name for given in self._session.get_inputs()]
        painted = self._session.run(None, dict(zip(names, (picture, known))))[0][0].transpose(1, 2, 0)
        return np.where(hole[..., None], painted, rgb)


def load_painter(report: Reporter) -> Painter:
    """MI-GAN where its weights are (`fourdgen doctor --weights migan`), else the classical way."""
    path = weights.locate("migan")
    report.emit("note", text=f"inpainting: {'MI-GAN' if path else 'classical'}")
    return MiGan(path) if path else Painter()


def _compose(
    guide: Guide, t: int, color: Float[Tensor, "h w 3"], share: Float[Tensor, "h w"], painter: Painter
) -> Float[Tensor, "h w 3"]:
    """On white: filmed colour where there is any, the guide where it is confident, paint in the rest of the subject."""
    alpha = guide.alpha[t]
    inside = alpha > 0.5
    # Filmed colour replaces the straight colour inside; the soft rim keeps the guide's mixture with white.
    solid = inside & (share > 0)
    straight = (guide.rgb[t] - (1 - alpha[..., None])) / alpha.clamp_min(1e-3)[..., None]
    straight = torch.where(solid[..., None], share[..., None] * color + (1 - share[..., None]) * straight, straight)
    hole = inside & (share == 0) & (guide.confidence[t] < DOUBT)
    whole = (straight * alpha[..., None] + 1 - alpha[..., None]).clamp(0, 1)
    if not bool(hole.any()) or not bool((inside & ~hole).any()):
        return whole
    # The background is not to bleed into the hole: it is painted over first with the nearest colours of the subject.
    picture = (_spread(straight.clamp(0, 1), inside & ~hole) * 255).round().byte().numpy()
    painted = torch.from_numpy(painter.paint(picture, hole.numpy())).float() / 255
    return torch.where(hole[..., None], painted * alpha[..., None] + 1 - alpha[..., None], whole).clamp(0, 1)


def _spread(picture: Float[Tensor, "h w 3"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Every pixel that is not known gets the colour of the nearest known one."""
    label_of = cv2.distanceTransformWithLabels(
        (~known).numpy().astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    place = np.zeros(int(label_of.max()) + 1, np.int64)
    place[label_of[known.numpy()]] = np.flatnonzero(known.numpy())
    return picture.reshape(-1, 3)[torch.from_numpy(place[label_of]).flatten()].reshape(picture.shape)
