"""Drawing surfels: three rasterizers behind one protocol, `pick` to choose one, `draw` to use it on surfels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen import native
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import quat_conjugate, quat_rotate
from fourdgen.render.cpu import CpuRasterizer
from fourdgen.render.tiled import TiledRasterizer
from fourdgen.render.types import Rasterizer, RenderOut
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.surfels import Surfels, rgb_from_sh

__all__ = ["Rasterizer", "RenderOut", "draw", "pick", "surface_normal"]

SILENT = Silent()
NAMES = ("auto", "cpu", "cuda", "tiled")
BUILD_HINT = "install fourdgen with a C++ compiler at hand (pip install -e . in a checkout)"


def pick(name: str = "auto", device: str = "cpu", threads: int | None = None, report: Reporter = SILENT) -> Rasterizer:
    """The rasterizer of that name for tensors on `device` ("cpu" or "cuda").

    "auto" takes the best that works and says which. A named one that cannot work here raises FourdgenError with a way
    out: nothing is replaced silently.
    """
    if name not in NAMES:
        raise FourdgenError(f"no rasterizer is called {name!r}", f"choose one of {', '.join(NAMES)}")
    kind = torch.device(device).type
    if name == "auto":
        return _best(kind, threads, report)
    if name == "cpu":
        return _cpu(kind, threads)
    if name == "cuda":
        return _cuda(kind)
    report.warn(f"the tiled rasterizer is hundreds of times slower than the compiled ones: {BUILD_HINT}")
    return TiledRasterizer()


def _best(kind: str, threads: int | None, report: Reporter) -> Rasterizer:
    try:
        best = _cuda(kind) if kind == "cuda" else _cpu(kind, threads)
    except FourdgenError as error:
        report.warn(f"{error.message}; the tiled rasterizer is used, hundreds of times slower ({error.hint})")
        return TiledRasterizer()
    report.emit("note", text=f"rasterizer: {best.name}" + (f" ({native.build()})" if best.name == "cpu" else ""))
    return best


def _cpu(kind: str, threads: int | None) -> Rasterizer:
    if kind != "cpu":
        raise FourdgenError(f"the cpu rasterizer cannot draw tensors on {kind}", "use --device cpu, or rasterizer cuda")
    if not native.available():
        raise FourdgenError(f"the cpu rasterizer cannot be used: {native.why_not()}", f"{BUILD_HINT}, or use tiled")
    return CpuRasterizer(threads)


def _cuda(kind: str) -> Rasterizer:
    from fourdgen.render.cuda import CudaRasterizer, load_gsplat

    gsplat = load_gsplat()
    if kind != "cuda":
        raise FourdgenError(
            f"the cuda rasterizer cannot draw tensors on {kind}", "use --device cuda, or rasterizer cpu"
        )
    return CudaRasterizer(gsplat)


def draw(
    surfels: Surfels,
    cameras: Cameras,
    background: Float[Tensor, "3"] | Float[Tensor, "v 3"] | None = None,
    rasterizer: Rasterizer | None = None,
    distortion: bool = False,
    weights: bool = False,
    screen_grad: Float[Tensor, "n"] | None = None,
) -> RenderOut:
    """Draw surfels of a scene: activations, colours of the directions they are seen from, then the rasterizer.

    Directions are turned back into the canonical frame by `surfels.turned`, so that colours move with the surface.
    """
    rasterizer = rasterizer or pick("auto", surfels.means.device.type)
    return rasterizer(
        surfels.means,
        surfels.quats,
        surfels.log_scales.exp(),
        torch.sigmoid(surfels.opacity),
        colors_seen(surfels, cameras),
        cameras,
        background=background,
        distortion=distortion,
        weights=weights,
        screen_grad=screen_grad,
    )


def colors_seen(surfels: Surfels, cameras: Cameras) -> Float[Tensor, "n 3"] | Float[Tensor, "v n 3"]:
    """sRGB colours of surfels, per view where they depend on the direction."""
    if surfels.sh.shape[1] == 1:
        return rgb_from_sh(surfels.sh)
    colors = []
    for center in cameras.centers():
        directions = torch.nn.functional.normalize(surfels.means - center, dim=-1)
        if surfels.turned is not None:
            directions = quat_rotate(quat_conjugate(surfels.turned), directions)
        colors.append(rgb_from_sh(surfels.sh, directions))
    return torch.stack(colors)


def surface_normal(
    depth: Float[Tensor, "v h w"], alpha: Float[Tensor, "v h w"], cameras: Cameras
) -> Float[Tensor, "v h w 3"]:
    """Unit world-space normals, towards the camera, of the surface that expected depth / alpha describes.

    Central differences of unprojected points; zero on the border and where a neighbour has no alpha.
    """
    points = cameras.rays() * (depth / alpha.clamp_min(1e-6))[..., None]
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1, eps=1e-12)
    seen = alpha > 1e-6
    known = seen[:, 1:-1, 2:] & seen[:, 1:-1, :-2] & seen[:, 2:, 1:-1] & seen[:, :-2, 1:-1]
    normal = torch.where(known[..., None], normal, torch.zeros_like(normal))
    world = torch.einsum("vji,vhwj->vhwi", cameras.cam_from_world[:, :3, :3], normal)
    return torch.nn.functional.pad(world, (0, 0, 1, 1, 1, 1))
