"""Mesh sequences in trimesh and open3d, USD under its own validators and after reading again."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from fourdgen.data.video import write_exr
from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.playback.exports import export
from fourdgen.scene.adapt import adapted
from fourdgen.scene.formats import usd
from fourdgen.scene.formats.splats import at_moment
from fourdgen.scene.joints import fitted_joints
from fourdgen.scene.mesh import SkinnedMesh, skinned_like
from fourdgen.scene.options import Adapt
from fourdgen.scene.scene4d import Scene4D
from tests.external.conftest import missing
from tests.external.test_readers import program
from tests.skinning import skinned_linearly
from tests.toy import toy_scene


@pytest.fixture(scope="module")
def scene() -> Scene4D:
    return toy_scene()


@pytest.mark.parametrize(("name", "kind"), [("obj-seq", "obj"), ("mesh-seq", "ply")])
def test_mesh_sequences_are_read(tmp_path: Path, scene: Scene4D, name: str, kind: str) -> None:
    export(scene, tmp_path / "frames", name, Adapt(clip="a", frames="0:5:2"))
    paths = sorted((tmp_path / "frames").glob(f"*.{kind}"))
    assert len(paths) == 3
    open3d = program("open3d")
    meshes = [trimesh.load(path, process=False) for path in paths]
    for path, mesh in zip(paths, meshes):
        other = open3d.io.read_triangle_mesh(str(path))
        assert len(other.triangles) == len(mesh.faces) > 1000
        assert np.allclose(
            np.asarray(other.vertex_colors).mean(0), mesh.visual.vertex_colors[:, :3].mean(0) / 255, atol=0.02
        )
        assert np.array_equal(mesh.faces, meshes[0].faces)
        assert mesh.vertices[:, 1].max() > 0.5  # y is up
    assert np.abs(meshes[2].vertices - meshes[0].vertices).max() > 0.1  # the arm has moved


@pytest.fixture(scope="module")
def small() -> SkinnedMesh:
    """A mesh of three balls that moves with the toy."""
    scene = toy_scene()
    balls = [
        trimesh.creation.icosphere(3, 0.15).apply_translation(at)
        for at in ([0, 0.1, 0], [-0.5, 0, 0.05], [-0.35, 0, 0])
    ]
    whole = trimesh.util.concatenate(balls)
    vertices = torch.from_numpy(np.asarray(whole.vertices)).float()
    ids, weights = skinned_like(scene.surfels, vertices)
    colors = torch.rand(len(vertices), 3, generator=torch.Generator().manual_seed(0))
    return SkinnedMesh(vertices, torch.from_numpy(np.asarray(whole.faces)), colors, ids, weights)


@pytest.mark.parametrize("ending", ["usdc", "usda", "usdz"])
def test_usd_is_valid_and_plays_our_motion(tmp_path: Path, scene: Scene4D, small: SkinnedMesh, ending: str) -> None:
    try:
        from pxr import Usd, UsdGeom, UsdSkel, UsdValidation
    except ImportError as error:
        missing("usd-core", f"make test-external installs it ({error})")
    path = tmp_path / f"toy.{ending}"
    animations = {name: fitted_joints(small, scene.motion, name) for name in scene.clips}
    usd.write(path, small, "y", "a", scene.motion.centers, animations)
    stage = Usd.Stage.Open(str(path))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    errors = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in errors] == []
    assert len(validators) > 10
    # UsdSkel's own skinning gives what we say that linear skinning gives.
    cache, root = UsdSkel.Cache(), UsdSkel.Root(stage.GetPrimAtPath("/subject"))
    cache.Populate(root, Usd.PrimDefaultPredicate)
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/subject/surface"))
    binding = cache.GetSkinningQuery(shape.GetPrim())
    skeleton = cache.GetSkelQuery(UsdSkel.Skeleton(stage.GetPrimAtPath("/subject/skeleton")))
    for sample in (0, 7, 15):
        time = float(animations["a"].seconds[sample] - animations["a"].seconds[0]) * usd.TICKS
        transforms = skeleton.ComputeSkinningTransforms(time)
        points = shape.GetPointsAttr().Get()
        assert binding.ComputeSkinnedPoints(transforms, points, time)
        wanted = skinned_linearly(small, animations["a"], sample).numpy()
        assert np.abs(np.array(points) - wanted).max() < 1e-4
    assert len(stage.GetPrimAtPath("/subject/clip_b").GetAttribute("rotations").GetTimeSamples()) == 11


@pytest.mark.parametrize("ending", ["usdc", "usdz"])
def test_usd_splats_are_valid_and_move_as_ours_do(tmp_path: Path, ending: str) -> None:
    pxr = program("pxr")
    Usd, UsdVol = importlib.import_module("pxr.Usd"), importlib.import_module("pxr.UsdVol")
    if not hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        missing("a usd-core with Gaussian splats", "make test-external installs it")
    scene = toy_scene(harmonics=4)
    export(scene, tmp_path / f"toy.{ending}", "usd-splats", Adapt(clip="a"))
    stage = Usd.Stage.Open(str(tmp_path / f"toy.{ending}"))
    validation = importlib.import_module("pxr.UsdValidation")
    validators = validation.ValidationRegistry().GetOrLoadAllValidators()
    errors = validation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in errors] == [], pxr
    splats = UsdVol.ParticleField3DGaussianSplat(stage.GetPrimAtPath("/subject/splats"))
    there = adapted(scene, Adapt(clip="a"), "y")
    times = there.clips["a"].seconds.tolist()
    assert len(splats.GetPositionsAttr().GetTimeSamples()) == len(times)
    assert stage.GetEndTimeCode() == pytest.approx((times[-1] - times[0]) * usd.TICKS)
    for number in (0, 4, len(times) - 1):
        code = (times[number] - times[0]) * usd.TICKS
        wanted = at_moment(there, times[number])
        assert np.abs(np.array(splats.GetPositionsAttr().Get(code)) - wanted.means.numpy()).max() < 1e-5
        turns = [[q.GetReal(), *q.GetImaginary()] for q in splats.GetOrientationsAttr().Get(code)]
        assert torch.allclose(quat_to_matrix(torch.tensor(turns)), quat_to_matrix(wanted.quats), atol=1e-4)
        colors = np.array(splats.GetRadianceSphericalHarmonicsCoefficientsAttr().Get(code)).reshape(-1, 4, 3)
        assert np.abs(colors - wanted.sh.numpy()).max() < 1e-5
    assert np.abs(np.array(splats.GetScalesAttr().Get())[:, :2] - wanted.log_scales.exp().numpy()).max() < 1e-6
    assert np.abs(np.array(splats.GetOpacitiesAttr().Get()) - torch.sigmoid(wanted.opacity).numpy()).max() < 1e-6


def test_openexr_reads_our_depth(tmp_path: Path) -> None:
    exr = program("OpenEXR")
    depth = np.random.default_rng(0).uniform(0, 5, (37, 53)).astype(np.float32)
    write_exr(tmp_path / "depth.exr", depth)
    channels = exr.File(str(tmp_path / "depth.exr")).channels()
    assert list(channels) == ["Y"]
    assert np.array_equal(channels["Y"].pixels, depth)


def test_the_point_cache_is_valid_and_has_our_own_skinning(tmp_path: Path, scene: Scene4D, small: SkinnedMesh) -> None:
    program("pxr")
    Usd, UsdGeom = importlib.import_module("pxr.Usd"), importlib.import_module("pxr.UsdGeom")
    usd.write_cache(tmp_path / "toy.usdc", small, scene, "y")
    stage = Usd.Stage.Open(str(tmp_path / "toy.usdc"))
    validation = importlib.import_module("pxr.UsdValidation")
    validators = validation.ValidationRegistry().GetOrLoadAllValidators()
    errors = validation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in errors] == []
    points = UsdGeom.Mesh(stage.GetPrimAtPath("/subject/surface")).GetPointsAttr()
    times = scene.clips["a"].seconds.tolist()
    assert len(points.GetTimeSamples()) == len(times)
    for number in (0, 3, len(times) - 1):
        wanted = small.at(scene.motion, "a", times[number]).vertices.numpy()
        assert np.abs(np.array(points.Get((times[number] - times[0]) * usd.TICKS)) - wanted).max() < 1e-6
    moved = np.array(points.Get(0)) - np.array(points.Get(times[3] * usd.TICKS))
    assert np.abs(moved).max() > 0.05
