"""What each export format does with a scene that has been adapted: the functions of the formats in formats.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fourdgen.playback.formats import PLAIN, MeshOptions
from fourdgen.playback.surface import SurfaceConfig, surface
from fourdgen.playback.texture import baked, load_nvdiffrast
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import Reporter, Silent
from fourdgen.scene import compressed, files
from fourdgen.scene.files import extent
from fourdgen.scene.formats import cameras, colmap, gltf, gltf_splats, html, meshes, sog, splats, usd, usd_splats
from fourdgen.scene.joints import JointMotion, fitted_joints
from fourdgen.scene.mesh import SkinnedMesh
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.whole import whole_file


@dataclass(frozen=True)
class Setup:
    """What a format may need besides the scene: whom to tell, and where to compute."""

    report: Reporter = Silent()
    device: str = "cpu"
    placed: bool = False  # the user asked for axes, a scale or an origin
    up: str = "-y"  # the axis that points up in the scene as it is given
    mesh: MeshOptions = PLAIN


def write_scene(path: Path, scene: Scene4D, setup: Setup) -> None:
    files.write(path, scene)


def write_compressed(path: Path, scene: Scene4D, setup: Setup) -> None:
    compressed.write(path, scene, setup.report)


def write_cameras(path: Path, scene: Scene4D, setup: Setup) -> None:
    # Who places the scene wants the cameras that see it there, and not those of the coordinates that were given.
    with whole_file(path) as part:
        cameras.write(part, replace(scene, world_from_input=None) if setup.placed else scene)


def write_colmap(path: Path, scene: Scene4D, setup: Setup) -> None:
    colmap.write(path, replace(scene, world_from_input=None) if setup.placed else scene)


def write_html(path: Path, scene: Scene4D, setup: Setup) -> None:
    html.write(path, scene)


def write_gaussians(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_3dgs(path, splats.at_moment(scene))


def write_sequence(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_sequence(path, scene, setup.report)


def write_splat(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_splat(path, splats.at_moment(scene))


def write_spz(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_spz(path, splats.at_moment(scene))


def write_sog(path: Path, scene: Scene4D, setup: Setup) -> None:
    sog.write(path, splats.at_moment(scene))


def write_glb(path: Path, scene: Scene4D, setup: Setup) -> None:
    if setup.mesh.fit_texture:
        load_nvdiffrast()  # or say so before the work
    mesh, centers, animations = _animated(scene, setup)
    texture = None
    if setup.mesh.texture:
        rasterizer = rasterizer_on(setup.device)
        texture = baked(mesh, scene, rasterizer, setup.mesh.texture, fit=setup.mesh.fit_texture, report=setup.report)
    gltf.write_glb(path, mesh, centers, animations, texture)


def write_usd(path: Path, scene: Scene4D, setup: Setup) -> None:
    usd.load_usd()  # before anything is computed
    mesh, centers, animations = _animated(scene, setup)
    usd.write(path, mesh, setup.up, scene.reference, centers, animations)


def write_usd_cache(path: Path, scene: Scene4D, setup: Setup) -> None:
    usd.load_usd()
    usd.write_cache(path, _surface(scene, setup), scene, setup.up, setup.report)


def write_glb_splats(path: Path, scene: Scene4D, setup: Setup) -> None:
    gltf_splats.write(path, splats.at_moment(scene))


def write_usd_splats(path: Path, scene: Scene4D, setup: Setup) -> None:
    usd_splats.write(path, scene, setup.up, setup.report)


def write_obj_sequence(path: Path, scene: Scene4D, setup: Setup) -> None:
    meshes.write_sequence(path, scene, _surface(scene, setup), "obj", setup.report)


def write_mesh_sequence(path: Path, scene: Scene4D, setup: Setup) -> None:
    meshes.write_sequence(path, scene, _surface(scene, setup), "ply", setup.report)


def _surface(scene: Scene4D, setup: Setup) -> SkinnedMesh:
    config = SurfaceConfig(faces=setup.mesh.faces)
    return surface(scene, rasterizer_on(setup.device), config, report=setup.report)


def _animated(scene: Scene4D, setup: Setup) -> tuple[SkinnedMesh, Float[Tensor, "b 3"] | None, dict[str, JointMotion]]:
    """The mesh of a scene, where its joints are at rest, and their motion in each clip; none where nothing moves."""
    mesh, motion = _surface(scene, setup), scene.motion
    if not isinstance(motion, SampledBones) or mesh.bone_ids is None:
        return mesh, None, {}
    size = extent(scene.surfels)[1]
    animations = {}
    for name in scene.clips:
        joints = animations[name] = fitted_joints(mesh, motion, name, setup.report)
        setup.report.emit("note", text=_residual(name, joints, size), residual_rms=joints.residual_rms / size)
    return mesh, motion.centers, animations


def _residual(name: str, joints: JointMotion, size: float) -> str:
    typical, largest, before = (100 * x / size for x in (joints.residual_rms, joints.residual_max, joints.before_rms))
    return (
        f"clip {name}: linear skinning is off by {typical:.2f} % of the radius (rms; {largest:.1f} % at most; "
        f"{before:.2f} % before the joints were fitted)"
    )
