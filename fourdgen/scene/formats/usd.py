"""USD (.usdc, .usda, .usdz): a UsdSkel mesh with vertex colours and an animation for each clip. Needs usd-core."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen.geometry.transforms import quat_rotate
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.formats.gltf import linear
from fourdgen.scene.joints import JointMotion
from fourdgen.scene.mesh import SkinnedMesh
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.whole import whole_file

TICKS = 1000  # time codes a second: clips need not have one frame rate


def load_usd() -> Any:
    """The package pxr. Raises FourdgenError where it is not installed."""
    try:
        import pxr.UsdSkel
        import pxr.UsdUtils
    except ImportError as error:
        raise FourdgenError(f"USD needs the package usd-core ({error})", "pip install 'fourdgen[usd]'") from None
    return pxr


def write(
    path: Path,
    mesh: SkinnedMesh,
    up: str,
    reference: str = "",
    centers: torch.Tensor | None = None,
    animations: Mapping[str, JointMotion] | None = None,
) -> None:
    """Writes .usdc (or .usda) or packs it as .usdz. The animation of clip `reference` plays; the others lie beside it.

    up: "y" or "z". Times are in seconds * TICKS from the start of each clip. Joints are those of joints.py: UsdSkel
    blends linearly.
    """
    pxr = load_usd()
    packed(pxr, path, lambda part: _stage(pxr, part, mesh, up, reference, centers, animations or {}))


def write_cache(path: Path, mesh: SkinnedMesh, scene: Scene4D, up: str, report: Reporter = Silent()) -> None:
    """The same mesh as a point cache: where its vertices are, by our own skinning, at each frame of the reference clip.
    One frame is in memory at a time, besides what USD keeps."""
    pxr = load_usd()
    clip = scene.clips[scene.reference]
    seconds = [float(time) for time in clip.seconds]

    def build(part: Path) -> None:
        stage, shape = _still(pxr, part, mesh.at(scene.motion, clip.name, seconds[0]), up)
        Vt = pxr.Vt
        for number, time in enumerate(seconds if len(seconds) > 1 else []):
            state = mesh.at(scene.motion, clip.name, time)
            code = (time - seconds[0]) * TICKS
            shape.GetPointsAttr().Set(Vt.Vec3fArray.FromNumpy(state.vertices.numpy().astype(np.float32)), code)
            shape.GetNormalsAttr().Set(Vt.Vec3fArray.FromNumpy(state.normals().numpy().astype(np.float32)), code)
            shape.GetExtentAttr().Set(Vt.Vec3fArray.FromNumpy(_bounds(state)), code)
            report.emit("step", stage="export", step=number + 1, total=len(seconds))
        stage.SetStartTimeCode(0)
        stage.SetEndTimeCode((seconds[-1] - seconds[0]) * TICKS)
        stage.GetRootLayer().Save()

    packed(pxr, path, build)


def packed(pxr: Any, path: Path, build: Callable[[Path], None]) -> None:
    """Lets `build` write a stage, packs it where a .usdz is wanted, and gives it its name when it is whole. Raises
    FourdgenError for another extension, and where it cannot be packed or written."""
    kind = path.suffix.lower()
    if kind not in (".usd", ".usdc", ".usda", ".usdz"):
        raise FourdgenError(f"{path}: USD has other extensions", "name it .usdc, .usda or .usdz")
    with whole_file(path) as part:
        if kind == ".usdz":
            inner = part.with_suffix(".usdc")
            try:
                build(inner)
                if not pxr.UsdUtils.CreateNewUsdzPackage(str(inner), str(part)):
                    raise FourdgenError(f"{path} could not be packed", "write a .usdc instead")
            finally:
                inner.unlink(missing_ok=True)
        else:
            build(part)


def new_stage(pxr: Any, path: Path, up: str) -> Any:
    """An empty stage with its axis, unit and ticks."""
    stage = pxr.Usd.Stage.CreateNew(str(path))
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y if up == "y" else pxr.UsdGeom.Tokens.z)
    pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(TICKS)
    stage.SetFramesPerSecond(24)
    return stage


def _stage(
    pxr: Any,
    path: Path,
    mesh: SkinnedMesh,
    up: str,
    reference: str,
    centers: torch.Tensor | None,
    animations: Mapping[str, JointMotion],
) -> None:
    skinned = centers is not None and bool(animations)
    stage, shape = _still(pxr, path, mesh, up, skinned)
    if skinned:
        assert centers is not None
        _skin(pxr, stage, shape, mesh, reference, centers, animations)
        longest = max(float(part.seconds[-1] - part.seconds[0]) for part in animations.values())
        stage.SetStartTimeCode(0)
        stage.SetEndTimeCode(longest * TICKS)
    stage.GetRootLayer().Save()


def _bounds(mesh: SkinnedMesh) -> np.ndarray:
    return np.stack([mesh.vertices.numpy().min(0), mesh.vertices.numpy().max(0)]).astype(np.float32)


def _still(pxr: Any, path: Path, mesh: SkinnedMesh, up: str, skinned: bool = False) -> tuple[Any, Any]:
    """A stage with the mesh and its material, not yet saved, and the mesh in it."""
    Sdf, UsdGeom, UsdSkel, Vt = pxr.Sdf, pxr.UsdGeom, pxr.UsdSkel, pxr.Vt
    stage = new_stage(pxr, path, up)
    root = UsdSkel.Root.Define(stage, "/subject") if skinned else UsdGeom.Xform.Define(stage, "/subject")
    stage.SetDefaultPrim(root.GetPrim())
    shape = UsdGeom.Mesh.Define(stage, "/subject/surface")
    shape.CreateSubdivisionSchemeAttr("none")
    shape.CreateDoubleSidedAttr(True)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(mesh.vertices.numpy().astype(np.float32)))
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(mesh.normals().numpy().astype(np.float32)))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    shape.CreateFaceVertexCountsAttr(Vt.IntArray(len(mesh.faces), 3))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.numpy().astype(np.int32).reshape(-1)))
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(_bounds(mesh)))
    colors = linear(mesh.colors.clamp(0, 1).numpy().astype(np.float64)).astype(np.float32)
    primvar = UsdGeom.PrimvarsAPI(shape).CreatePrimvar(
        "displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex
    )
    primvar.Set(Vt.Vec3fArray.FromNumpy(colors))
    _material(pxr, stage, shape)
    return stage, shape


def _material(pxr: Any, stage: Any, shape: Any) -> None:
    """A material that shows the vertex colours as they are: the filmed light is in them."""
    Sdf, UsdShade = pxr.Sdf, pxr.UsdShade
    material = UsdShade.Material.Define(stage, "/subject/filmed")
    shader = UsdShade.Shader.Define(stage, "/subject/filmed/surface")
    shader.CreateIdAttr("UsdPreviewSurface")
    reader = UsdShade.Shader.Define(stage, "/subject/filmed/color")
    reader.CreateIdAttr("UsdPrimvarReader_float3")
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("displayColor")
    result = reader.CreateOutput("result", Sdf.ValueTypeNames.Float3)
    shader.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).Set((0, 0, 0))
    shader.CreateInput("emissiveColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(result)
    shader.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
    material.CreateSurfaceOutput().ConnectToSource(shader.CreateOutput("surface", Sdf.ValueTypeNames.Token))
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)


def _skin(
    pxr: Any,
    stage: Any,
    shape: Any,
    mesh: SkinnedMesh,
    reference: str,
    centers: torch.Tensor,
    animations: Mapping[str, JointMotion],
) -> None:
    Gf, UsdSkel, Vt = pxr.Gf, pxr.UsdSkel, pxr.Vt
    assert mesh.bone_ids is not None and mesh.bone_weights is not None
    joints = [f"bone_{number:02d}" for number in range(len(centers))]
    skeleton = UsdSkel.Skeleton.Define(stage, "/subject/skeleton")
    skeleton.CreateJointsAttr(joints)
    rest = Vt.Matrix4dArray([Gf.Matrix4d().SetTranslate(Gf.Vec3d(*center)) for center in centers.double().tolist()])
    skeleton.CreateBindTransformsAttr(rest)
    skeleton.CreateRestTransformsAttr(rest)
    binding = UsdSkel.BindingAPI.Apply(shape.GetPrim())
    binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
    influences = mesh.bone_ids.shape[1]
    ids = Vt.IntArray.FromNumpy(mesh.bone_ids.numpy().astype(np.int32).reshape(-1))
    weights = Vt.FloatArray.FromNumpy(mesh.bone_weights.numpy().astype(np.float32).reshape(-1))
    binding.CreateJointIndicesPrimvar(False, influences).Set(ids)
    binding.CreateJointWeightsPrimvar(False, influences).Set(weights)
    binding.CreateGeomBindTransformAttr(Gf.Matrix4d(1.0))
    paths: dict[str, str] = {}
    for clip, motion in animations.items():
        path = _free(f"/subject/{_identifier(clip)}", paths.values())
        paths[clip] = path
        animation = UsdSkel.Animation.Define(stage, path)
        animation.GetPrim().SetDisplayName(clip)
        animation.CreateJointsAttr(joints)
        animation.CreateScalesAttr(Vt.Vec3hArray(len(joints), Gf.Vec3h(1, 1, 1)))
        places = quat_rotate(motion.rotations, centers.expand_as(motion.translations)) + motion.translations
        turns = torch.nn.functional.normalize(motion.rotations, dim=-1)
        rotations, translations = animation.CreateRotationsAttr(), animation.CreateTranslationsAttr()
        for sample, seconds in enumerate((motion.seconds - motion.seconds[0]).tolist()):
            rotations.Set(Vt.QuatfArray([Gf.Quatf(*quat) for quat in turns[sample].tolist()]), seconds * TICKS)
            translations.Set(Vt.Vec3fArray.FromNumpy(places[sample].numpy().astype(np.float32)), seconds * TICKS)
    chosen = paths.get(reference, next(iter(paths.values())))
    UsdSkel.BindingAPI.Apply(skeleton.GetPrim()).CreateAnimationSourceRel().SetTargets([chosen])


def _identifier(name: str) -> str:
    """A clip's name as USD lets a prim be called."""
    return "clip_" + re.sub(r"\W", "_", name, flags=re.ASCII)


def _free(path: str, taken: Any) -> str:
    number = 2
    chosen = path
    while chosen in taken:
        chosen, number = f"{path}_{number}", number + 1
    return chosen
