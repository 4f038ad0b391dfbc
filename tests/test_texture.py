"""Textures of exported meshes: baked on the CPU, fitted by a reference of nvdiffrast, asked for at the right place."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh

from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.playback.exports import export
from fourdgen.playback.formats import MeshOptions
from fourdgen.playback.surface import SurfaceConfig, pictures_of
from fourdgen.playback.texture import baked, fitted, load_nvdiffrast, seen_from
from fourdgen.render import pick
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene.formats import gltf
from fourdgen.scene.mesh import SkinnedMesh, Texture
from fourdgen.scene.motion import Still
from fourdgen.scene.scene4d import Scene4D
from tests import nvdiffrast_reference
from tests.test_fused_surface import dense_toy

VIEWS = SurfaceConfig(views=24, size=256)


def body() -> SkinnedMesh:
    """The body of the toy by few triangles: its stripes are finer than they."""
    ball = trimesh.creation.icosphere(2)
    vertices = torch.from_numpy(ball.vertices * [0.35, 0.45, 0.25] + [0, 0.1, 0]).float()
    return SkinnedMesh(vertices, torch.from_numpy(np.asarray(ball.faces)), torch.full_like(vertices, 0.5))


@pytest.fixture(scope="module")
def scene() -> Scene4D:
    """The body alone, opaque and at rest."""
    whole = dense_toy()
    part = whole.surfels[:4000]
    return replace(whole, surfels=replace(part, opacity=torch.full((len(part),), 6.0)), motion=Still())


@pytest.fixture(scope="module")
def texture(scene: Scene4D) -> Texture:
    return baked(body(), scene, pick("cpu"), 256, VIEWS)


def elsewhere() -> Cameras:
    """Views that are none of those that textures are baked from."""
    eyes = orbit_eyes(torch.tensor([10.0, 130.0, 250.0]), 20.0, 3.0)
    return Cameras(look_at(eyes), intrinsics(24.0, (96, 96)).expand(3, 3, 3).clone(), (96, 96))


def difference(mesh: SkinnedMesh, texture: Texture, scene: Scene4D) -> tuple[float, float]:
    """Mean difference of a textured mesh from the asset in views from elsewhere, and of one in its mean colour."""
    cameras = elsewhere()
    rest = replace(scene.surfels, turned=None)
    pictures = pictures_of(rest, cameras, pick("cpu"), Silent(), "test")
    context = nvdiffrast_reference.RasterizeCudaContext("cpu")
    corners = torch.arange(3 * len(mesh.faces), dtype=torch.int32).reshape(-1, 3)
    vertices = torch.cat([mesh.vertices, torch.ones(len(mesh.vertices), 1)], 1)
    errors, flat = [], []
    for number, (rgb, depth) in enumerate(pictures):
        position = (vertices @ seen_from(cameras, number).T)[None].contiguous()
        drawn, _ = nvdiffrast_reference.rasterize(context, position, mesh.faces.int(), [96, 96])
        at, _ = nvdiffrast_reference.interpolate(texture.uv.reshape(1, -1, 2), drawn, corners)
        picture = torch.from_numpy(texture.picture).float()[None] / 255
        shown = nvdiffrast_reference.texture(picture, at, filter_mode="linear", boundary_mode="clamp")[0]
        both = (drawn[0, ..., 3] > 0) & depth.isfinite()
        assert float(both.sum() / depth.isfinite().sum()) > 0.85  # the mesh stands where the asset stands
        errors.append(float((shown - rgb)[both].abs().mean()))
        flat.append(float((rgb[both] - rgb[both].mean(0)).abs().mean()))
    return float(np.mean(errors)), float(np.mean(flat))


def test_a_baked_texture_shows_what_the_asset_shows(scene: Scene4D, texture: Texture) -> None:
    error, without = difference(body(), texture, scene)
    print(f"baked: {error:.4f}; one colour: {without:.4f}")
    assert error < 0.06
    assert without > 0.2


def test_fitting_by_differentiable_rasterization_comes_nearer(scene: Scene4D, texture: Texture) -> None:
    """The loop itself, with the documented functions of nvdiffrast on the CPU, from a grey start."""
    cameras = elsewhere()
    pictures = pictures_of(replace(scene.surfels, turned=None), cameras, pick("cpu"), Silent(), "test")
    grey = torch.full((256, 256, 3), 0.5)
    made = fitted(grey, body(), texture.uv, cameras, pictures, nvdiffrast_reference, steps=150, device="cpu")
    bytes_ = (made * 255).round().byte().numpy()
    error, _ = difference(body(), Texture(bytes_, texture.uv), scene)
    start, _ = difference(body(), Texture((grey * 255).byte().numpy(), texture.uv), scene)
    print(f"fitted: {error:.4f}; grey: {start:.4f}")
    assert error < 0.25 * start


def test_the_reference_has_the_signatures_of_nvdiffrast() -> None:
    try:
        import nvdiffrast.torch as real
    except ImportError as error:
        pytest.skip(f"nvdiffrast is in no package registry and not installed here ({error})")
    for name in ("rasterize", "interpolate", "texture"):
        ours, theirs = (inspect.signature(getattr(module, name)) for module in (nvdiffrast_reference, real))
        assert list(ours.parameters) == list(theirs.parameters)


@pytest.mark.gpu
def test_fitting_on_a_gpu(scene: Scene4D, texture: Texture) -> None:
    pytest.importorskip("nvdiffrast.torch", reason="nvdiffrast is in no package registry and not installed here")
    cameras = elsewhere()
    pictures = pictures_of(replace(scene.surfels, turned=None), cameras, pick("cpu"), Silent(), "test")
    grey = torch.full((256, 256, 3), 0.5)
    made = fitted(grey, body(), texture.uv, cameras, pictures, load_nvdiffrast(), steps=150)
    error, _ = difference(body(), Texture((made * 255).round().byte().numpy(), texture.uv), scene)
    assert error < 0.1


def test_a_textured_mesh_in_gltf(tmp_path: Path, texture: Texture) -> None:
    gltf.write_glb(tmp_path / "body.glb", body(), texture=texture)
    data = (tmp_path / "body.glb").read_bytes()
    length = int.from_bytes(data[12:16], "little")
    root, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    attributes = root["meshes"][0]["primitives"][0]["attributes"]
    assert "COLOR_0" not in attributes  # it would be multiplied with the texture
    view = root["bufferViews"][root["images"][0]["bufferView"]]
    picture = cv2.imdecode(
        np.frombuffer(binary, np.uint8, view["byteLength"], view["byteOffset"]), cv2.IMREAD_UNCHANGED
    )
    assert np.array_equal(picture[..., ::-1], texture.picture)
    read = trimesh.load(tmp_path / "body.glb", force="mesh", process=False)
    assert len(read.faces) == len(body().faces)
    flipped = read.visual.uv * [1, -1] + [0, 1]  # trimesh has the origin at the bottom
    assert np.allclose(flipped[read.faces], texture.uv.numpy(), atol=1e-6)
    assert np.allclose(read.vertices[read.faces], body().vertices[body().faces].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "mesh", "said"),
    [
        ("out.ply", MeshOptions(faces=500), "--faces means nothing to the format scene"),
        ("out.usdc", MeshOptions(texture=512), "--texture means nothing to the format usd"),
        ("out.glb", MeshOptions(faces=3), "too few"),
        ("out.glb", MeshOptions(texture=9), "not a texture size"),
        ("out.glb", MeshOptions(fit_texture=True), "needs a texture"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, name: str, mesh: MeshOptions, said: str) -> None:
    with pytest.raises(FourdgenError, match=said):
        export(dense_toy(), tmp_path / name, mesh=mesh)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    with pytest.raises(FourdgenError, match="need the package open3d") as refusal:
        export(dense_toy(), tmp_path / "out.glb", mesh=MeshOptions(faces=500))
    assert "fourdgen[mesh]" in refusal.value.hint
    if not torch.cuda.is_available():
        with pytest.raises(FourdgenError, match="on a CUDA device"):
            export(dense_toy(), tmp_path / "out.glb", mesh=MeshOptions(texture=512, fit_texture=True))
