"""gsplat 1.5.3's 2DGS kernels as a Rasterizer. Imported only when a CUDA device is there.

What differs from the other rasterizers: depth, median and distortion use the depth of each surfel's centre, not of the
ray's intersection, so that tilted surfels are flat in depth; `pixels` is the area of the footprint, not a count; the
low-pass disc of thin surfels is cut at borders of 16-pixel tiles, since gsplat bins by the ellipse alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.render.projection import project
from fourdgen.render.types import NEAR, RenderOut
from fourdgen.report import FourdgenError

COMPILED_CHANNELS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)  # of gsplat, which pads others with uninitialised memory
TILE = 16


def load_gsplat() -> Any:
    """The gsplat module, ready to draw. Raises FourdgenError that says what is missing."""
    if not torch.cuda.is_available():
        raise FourdgenError(
            "the cuda rasterizer needs an NVIDIA GPU and a CUDA build of torch",
            "use --device cpu, or install torch with CUDA from pytorch.org",
        )
    try:
        import gsplat
        from gsplat.cuda._backend import _C
    except ImportError as error:
        raise FourdgenError(
            f"the cuda rasterizer needs gsplat ({error})", "pip install 'fourdgen[cuda]', or use --device cpu"
        ) from error
    if _C is None:
        raise FourdgenError(
            "gsplat is installed, but its CUDA code could not be built",
            "install the CUDA toolkit of torch's version (nvcc), or a built gsplat wheel for it",
        )
    return gsplat


@dataclass(frozen=True)
class CudaRasterizer:
    gsplat: Any
    name: str = "cuda"

    def __call__(
        self,
        means: Float[Tensor, "*v n 3"],
        quats: Float[Tensor, "*v n 4"],
        scales: Float[Tensor, "n 2"],
        opacities: Float[Tensor, "n"],
        colors: Float[Tensor, "*v n c"],
        cameras: Cameras,
        background: Float[Tensor, "c"] | Float[Tensor, "v c"] | None = None,
        distortion: bool = False,
        weights: bool = False,
        screen_grad: Float[Tensor, "n"] | None = None,
    ) -> RenderOut:
        """See `fourdgen.render.Rasterizer`."""
        views, count = len(cameras), means.shape[-2]
        means, quats, scales, opacities, colors = _finite(means, quats, scales, opacities, colors)
        colors = colors.expand(views, count, -1)
        over = None if background is None else background.expand(views, -1)
        scene = (means, quats, scales, opacities)
        rgb, alpha, depth, median, normal, dist = self._draw(scene, colors, cameras, over, distortion, screen_grad)
        weight = pixels = None
        if weights:
            weight, pixels = self._gather([t.detach() for t in scene], cameras)
        return RenderOut(rgb, alpha, depth, median, normal, dist if distortion else None, weight, pixels)

    def _draw(
        self,
        scene: Any,
        colors: Tensor,
        cameras: Cameras,
        background: Tensor | None,
        distortion: bool,
        screen_grad: Tensor | None,
    ) -> list[Tensor]:
        """rgb, alpha, depth, median, normal, distortion: one call, or one a view where surfels are given per view."""
        if any(t.dim() == 3 for t in scene[:2]):
            calls = [
                (
                    tuple(t[v] if t.dim() == 3 else t for t in scene[:2]) + scene[2:],
                    colors[v : v + 1], cameras[v], None if background is None else background[v : v + 1],
                )
                for v in range(len(cameras))
            ]  # fmt: skip
        else:
            calls = [(scene, colors, cameras, background)]
        # gsplat has no gradient of the intrinsics: where one is asked for, the projection is ours
        route = self._through_our_projection if cameras.K.requires_grad else self._through_gsplat
        parts = [route(*call, distortion, screen_grad) for call in calls]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _through_gsplat(
        self,
        scene: Any,
        colors: Tensor,
        cameras: Cameras,
        background: Tensor | None,
        distortion: bool,
        screen_grad: Tensor | None,
    ) -> tuple[Tensor, ...]:
        means, quats, scales, opacities = scene
        padded, over = _padded(colors, background, extra=1)
        (width, height), channels = cameras.size, colors.shape[-1]
        image, alpha, normal, _, dist, median, meta = self.gsplat.rasterization_2dgs(
            means=means,
            quats=quats,
            scales=torch.cat([scales, torch.ones_like(scales[:, :1])], 1),  # the third is not used
            opacities=opacities,
            colors=padded,
            viewmats=cameras.cam_from_world,
            Ks=cameras.K,
            width=width,
            height=height,
            near_plane=NEAR,
            tile_size=TILE,
            backgrounds=over,
            render_mode="RGB+D",  # depth: summed by weight, not divided
            distloss=distortion,
        )
        _watch(meta["ray_transforms"], meta["means2d"], screen_grad)
        return image[..., :channels], alpha[..., 0], image[..., -1], median[..., 0], normal, dist[..., 0]

    def _through_our_projection(
        self,
        scene: Any,
        colors: Tensor,
        cameras: Cameras,
        background: Tensor | None,
        distortion: bool,
        screen_grad: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """As `rasterization_2dgs`, with a projection that has gradients to K."""
        gsplat, (width, height), channels = self.gsplat, cameras.size, colors.shape[-1]
        means, quats, scales, opacities = scene
        each, hidden_in = [], []
        for pose, K in zip(cameras.cam_from_world, cameras.K, strict=True):
            with torch.no_grad():
                visible = project(means, quats, scales, opacities, pose, K, cameras.size).visible
                ahead = pose[:3, :3].T @ (pose.new_tensor([0, 0, 1]) - pose[:3, 3])
            # hidden surfels are put before the camera: 0 times the infinite slopes of theirs would be NaN
            moved = torch.where(visible[:, None], means, ahead)
            each.append(project(moved, quats, scales, opacities, pose, K, cameras.size))
            hidden_in.append(~visible)
        hidden = torch.stack(hidden_in)
        mean2d = torch.stack([p.mean2d for p in each])
        depth = torch.stack([p.center[:, 2] for p in each])
        # gsplat's origin is the picture's corner: add mean2d times the depth row
        centered = torch.stack([p.homography for p in each])
        transforms = centered + torch.cat(
            [mean2d[..., None] * centered[:, :, 2:], torch.zeros_like(centered[:, :, 2:])], 2
        )
        transforms = transforms.masked_fill(hidden[..., None, None], 0)
        mean2d, depth = mean2d.masked_fill(hidden[..., None], 0), depth.masked_fill(hidden, 0)
        normals = torch.stack([p.normal for p in each])
        with torch.no_grad():
            low, high = torch.stack([p.low for p in each]), torch.stack([p.high for p in each])
            radii = torch.maximum(high - mean2d, mean2d - low).ceil().clamp(0, 2 * max(cameras.size))
            radii = radii.masked_fill(hidden[..., None], 0).int()
            across, down = -(-width // TILE), -(-height // TILE)
            _, keys, members = gsplat.isect_tiles(mean2d, radii, depth, TILE, across, down)
            offsets = gsplat.isect_offset_encode(keys, len(each), across, down).reshape(len(each), down, across)
        padded, over = _padded(colors, background, extra=1)
        padded = torch.cat([padded, depth[..., None]], -1)
        over = None if over is None else torch.cat([over, torch.zeros_like(over[:, :1])], 1)
        image, alpha, normal, dist, median = gsplat.rasterize_to_pixels_2dgs(
            mean2d, transforms, padded, opacities.expand(len(each), -1), normals, torch.zeros_like(mean2d),
            width, height, TILE, offsets, members, backgrounds=over, distloss=distortion,
        )  # fmt: skip
        _watch(transforms, mean2d, screen_grad)
        return image[..., :channels], alpha[..., 0], image[..., -1], median[..., 0], normal, dist[..., 0]

    def _gather(self, scene: list[Tensor], cameras: Cameras) -> tuple[Float[Tensor, "v n"], Float[Tensor, "v n"]]:
        """Blend weight per surfel, which is the gradient of a constant colour channel, and the footprint's area."""
        views, count = len(cameras), scene[0].shape[-2]
        fixed = Cameras(cameras.cam_from_world.detach(), cameras.K.detach(), cameras.size)
        with torch.enable_grad():
            ones = torch.ones(views, count, 1, device=scene[0].device, requires_grad=True)
            image = self._draw(tuple(scene), ones, fixed, None, False, None)[0]
            (weight,) = torch.autograd.grad(image.sum(), ones)
        means, quats, scales, opacities = scene
        areas = []
        for v in range(views):
            m, q = (t[v] if t.dim() == 3 else t for t in (means, quats))
            p = project(m, q, scales, opacities, fixed.cam_from_world[v], fixed.K[v], fixed.size)
            per_sigma = torch.linalg.det(p.homography).abs() / p.center[:, 2].abs().clamp_min(NEAR) ** 3
            area = torch.pi * p.reach.clamp_min(0) * torch.clamp_min(per_sigma, 0.5)  # 0.5: the low-pass disc
            areas.append(torch.where(p.visible, area, torch.zeros_like(area)))
        return weight[..., 0].detach(), torch.stack(areas)


def _finite(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor) -> tuple[Tensor, ...]:
    """Surfels with anything not finite become invisible, and get no gradient."""

    def fine(t: Tensor) -> Tensor:
        ok = t.isfinite().flatten(2).all(2).all(0) if t.dim() == 3 else t.isfinite().reshape(len(t), -1).all(1)
        return ok

    ok = fine(means) & fine(quats) & fine(scales) & fine(opacities) & fine(colors)
    return (
        torch.where(ok[:, None], means, torch.zeros_like(means)),
        torch.where(ok[:, None], quats, torch.ones_like(quats)),
        torch.where(ok[:, None], scales, torch.ones_like(scales)),
        torch.where(ok, opacities, torch.zeros_like(opacities)),
        torch.where(ok[:, None], colors, torch.zeros_like(colors)),
    )


def _padded(colors: Float[Tensor, "v n c"], background: Tensor | None, extra: int) -> tuple[Tensor, Tensor | None]:
    """Zero channels until `extra` more make a number that gsplat has compiled: its own padding can hold NaN."""
    channels = colors.shape[-1]
    missing = next(k for k in COMPILED_CHANNELS if k >= channels + extra) - channels - extra
    pad = torch.nn.functional.pad
    return pad(colors, (0, missing)), None if background is None else pad(background, (0, missing))


def _watch(transforms: Float[Tensor, "v n 3 3"], mean2d: Float[Tensor, "v n 2"], screen_grad: Tensor | None) -> None:
    """Adds to `screen_grad`, in the backward pass, what a shift of each picture by a pixel does to the loss."""
    if screen_grad is None or not transforms.requires_grad:
        return
    depth_row = transforms.detach()[:, :, 2]

    def measure(grads: Any) -> None:
        to_transforms, to_mean2d = grads
        shift = transforms.new_zeros(mean2d.shape)
        if to_transforms is not None:
            shift = shift + (to_transforms[:, :, :2] * depth_row[:, :, None]).sum(-1)
        if to_mean2d is not None:
            shift = shift + to_mean2d
        screen_grad.add_(shift.norm(dim=-1).nan_to_num(0).sum(0))

    torch.autograd.graph.register_multi_grad_hook((transforms, mean2d), measure)
