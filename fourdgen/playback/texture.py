"""A texture for the mesh of a scene, baked from pictures of the asset from all around.

Every texel is a point of the surface: it gets the mean of what the views that see it show there, those that look
straight at it first. On a CUDA device nvdiffrast can then fit the texture to the pictures (Laine et al. 2020).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.playback.surface import Picture, SurfaceConfig, around, colors_at, open_moment, pictures_of, state_at
from fourdgen.render import Rasterizer
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.atlas import Atlas, grid_atlas
from fourdgen.scene.mesh import SkinnedMesh, Texture
from fourdgen.scene.scene4d import Scene4D

VIEWS = SurfaceConfig(views=40, size=768)


@torch.no_grad()
def baked(
    mesh: SkinnedMesh,
    scene: Scene4D,
    rasterizer: Rasterizer,
    size: int,
    config: SurfaceConfig = VIEWS,  # frozen
    fit: bool = False,
    report: Reporter = Silent(),
) -> Texture:
    """A texture of `size` x `size` texels for a mesh of the scene (canonical); `fit`: fitted to the pictures by
    nvdiffrast on the GPU.

    Raises FourdgenError where the triangles do not fit into it, and where `fit` is asked for and cannot be.
    """
    atlas = grid_atlas(len(mesh.faces), size)
    moment = open_moment(scene)
    state = state_at(scene, moment)
    mesh = mesh if moment is None else mesh.at(scene.motion, *moment)
    cameras, _, cell, _ = around(state, config)
    pictures = pictures_of(state, cameras, rasterizer, report, "texture")
    points, normals = _shown(mesh, atlas)
    colors = torch.zeros(size * size, 3)
    used = torch.from_numpy(atlas.face >= 0)
    colors[used] = colors_at(points, normals, state, cameras, pictures, cell)
    uv = torch.from_numpy(atlas.uv).float()
    straight = colors.reshape(size, size, 3)
    if fit:
        straight = fitted(straight, mesh, uv, cameras, pictures, load_nvdiffrast(), report=report)
    return Texture((straight.clamp(0, 1) * 255).round().byte().numpy(), uv)


def _shown(mesh: SkinnedMesh, atlas: Atlas) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    """Points and unit normals of the mesh that the texels with a face show."""
    used = atlas.face >= 0
    corners = mesh.faces.long()[torch.from_numpy(atlas.face[used])]
    weights = torch.from_numpy(atlas.weights[used]).float()[..., None]
    points = (mesh.vertices[corners] * weights).sum(1)
    # Beyond an edge the weights are negative somewhere: normals are taken at the edge.
    inside = weights.clamp_min(0)
    normals = (mesh.normals()[corners] * inside).sum(1)
    return points, torch.nn.functional.normalize(normals, dim=1)


# --------------------------------------------------------------------------------------------------------------
# Fitting by differentiable rasterization: what a mean of views blurs becomes sharp again.

STEPS, RATE = 300, 0.01


def load_nvdiffrast() -> Any:
    """The module nvdiffrast.torch. Raises FourdgenError where it is not installed or there is no CUDA device."""
    if not torch.cuda.is_available():
        raise FourdgenError("nvdiffrast fits textures on a CUDA device, and there is none", "leave --fit-texture out")
    try:
        return importlib.import_module("nvdiffrast.torch")
    except ImportError as error:
        raise FourdgenError(
            f"fitting the texture needs nvdiffrast ({error})",
            "it is not in the package registry (github.com/NVlabs/nvdiffrast; its licence is non-commercial); or leave "
            "--fit-texture out: the texture is then baked without it",
        ) from None


def fitted(
    start: Float[Tensor, "h w 3"],
    mesh: SkinnedMesh,
    uv: Float[Tensor, "f 3 2"],
    cameras: Cameras,
    pictures: list[Picture],
    rasterizer: Any,
    steps: int = STEPS,
    device: str = "cuda",
    report: Reporter = Silent(),
) -> Float[Tensor, "h w 3"]:
    """The texture that, drawn on the mesh, comes nearest to the pictures (mean absolute difference where both the mesh
    and the asset are; Adam). `rasterizer` has the functions of nvdiffrast.torch."""
    context = rasterizer.RasterizeCudaContext(device=device)
    faces = mesh.faces.int().contiguous().to(device)
    corners = torch.arange(3 * len(faces), dtype=torch.int32, device=device).reshape(-1, 3)
    places = uv.reshape(1, -1, 2).float().contiguous().to(device)
    vertices = torch.cat([mesh.vertices, torch.ones(len(mesh.vertices), 1)], 1)
    w, h = cameras.size
    views = []
    for number, (rgb, depth) in enumerate(pictures):
        position = (vertices @ seen_from(cameras, number).T)[None].contiguous().to(device)
        drawn, _ = rasterizer.rasterize(context, position, faces, resolution=[h, w])
        at, _ = rasterizer.interpolate(places, drawn, corners)
        both = (drawn[..., 3:] > 0) & depth.isfinite().to(device)[None, ..., None]
        views.append((at, both, rgb.clamp(0, 1)[None].to(device)))
    texture = start.clone()[None].contiguous().to(device).requires_grad_()
    optimizer = torch.optim.Adam([texture], lr=RATE)
    with torch.enable_grad():
        for step in range(steps):
            at, both, wanted = views[step % len(views)]
            shown = rasterizer.texture(texture, at, filter_mode="linear", boundary_mode="clamp")
            loss = ((shown - wanted).abs() * both).sum() / both.sum().clamp_min(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            report.emit("step", stage="texture", step=step + 1, total=steps, loss=float(loss.detach()))
    return texture.detach()[0].clamp(0, 1).cpu()


def seen_from(cameras: Cameras, number: int) -> Float[Tensor, "4 4"]:
    """Clip coordinates (x right, y DOWN, as rows of a picture run) from the world, for one camera."""
    w, h = cameras.size
    K, near, far = cameras.K[number], 0.01, 100.0
    projection = torch.tensor(
        [
            [2 * K[0, 0] / w, 0, 2 * K[0, 2] / w - 1, 0],
            [0, 2 * K[1, 1] / h, 2 * K[1, 2] / h - 1, 0],
            [0, 0, (far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, 1, 0],
        ]
    )
    return projection @ cameras.cam_from_world[number]
