"""Mesh sequences in trimesh and open3d, USD under its own validators and after reading again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from fourdgen.playback.exports import export
from fourdgen.scene.adapt import Adapt
from fourdgen.scene.formats import usd
from fourdgen.scene.joints import fitted_joints, skinned_linearly
from fourdgen.scene.mesh import SkinnedMesh, skinned_like
from fourdgen.scene.scene4d import Scene4D
from tests.external.conftest import missing
from tests.external.test_readers import program
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
