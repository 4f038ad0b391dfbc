"""The verb `export`: the table of formats, the choice among them, and the way from a scene to a file.

A new format is one file in scene/formats (or wherever it needs to stand) and one row here. A row's function gets a
scene in which all of `Adapt` has been done: it writes the clips that are there, at their own frames and seconds, in the
coordinates that it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from fourdgen.playback import writers
from fourdgen.playback.writers import MeshOptions, Setup
from fourdgen.report import FourdgenError, Reporter, Silent, table
from fourdgen.scene import files
from fourdgen.scene.adapt import Adapt, adapted
from fourdgen.scene.adapt import check as check_adapt
from fourdgen.scene.scene4d import Scene4D


@dataclass(frozen=True)
class Format:
    """`extension` picks the format where no name is given; "" : by name only, into a folder; None: by name only.

    `up`: the axis that points up where `--up` says nothing: -y (the root frame's, and the custom of splat files), y, z;
    "": it shows the subject upright by itself, and `--up` means nothing. `takes`: which of MeshOptions it heeds.
    """

    name: str
    extension: str | None
    about: str
    loses: str
    write: Callable[[Path, Scene4D, Setup], None]
    up: str = "-y"
    takes: tuple[str, ...] = ()


ROOT_UP = "-y"
PLAIN = MeshOptions()
_SURFACE = "softness, transparency, view-dependent colour, confidence; fine strands close up"
_MOMENT = "all motion but one moment (--time); confidence"
FORMATS = (
    Format("scene", ".ply", "the whole 4D asset, as reconstruct writes it", "nothing", writers.write_scene),
    Format("compressed", None, "the whole 4D asset, small, as a .sog (--compress); splat viewers show its rest pose",
           "digits: positions to 12 bits, rotations to 8, sizes and colours to 6, motion to 4e-4",
           writers.write_compressed),
    Format("cameras", ".json", "cameras of the input frames, nerfstudio layout with clip and frame",
           "the asset: cameras only", writers.write_cameras),
    Format("colmap", "", "the same cameras as a COLMAP model in text, with the surfels as points",
           "the asset: cameras only", writers.write_colmap),
    Format("html", ".html", "a page that plays the asset in a browser, offline",
           "cameras; bytes for colour and confidence, 16 bits for rotation and size", writers.write_html, up=""),
    Format("glb", ".glb", "a skinned mesh with an animation for each clip (glTF 2.0)",
           f"{_SURFACE}; bones blend linearly (the difference is printed)", writers.write_glb, up="y",
           takes=("faces", "texture", "fit_texture")),
    Format("usd", ".usdc", "the same as a UsdSkel mesh", f"{_SURFACE}; bones blend linearly",
           writers.write_usd, up="y", takes=("faces",)),
    Format("usdz", ".usdz", "the same in one package, for AR viewers", f"{_SURFACE}; bones blend linearly",
           writers.write_usd, up="y", takes=("faces",)),
    Format("usd-cache", None, "the mesh as a USD point cache, .usdc or .usdz, with our own skinning",
           f"{_SURFACE}; all other clips; what lies between frames", writers.write_usd_cache, up="y", takes=("faces",)),
    Format("obj-seq", "", "a folder with a mesh (OBJ) for every frame of one clip, same faces in all",
           f"{_SURFACE}; all other clips", writers.write_obj_sequence, up="y", takes=("faces",)),
    Format("mesh-seq", "", "the same as binary PLY", f"{_SURFACE}; all other clips",
           writers.write_mesh_sequence, up="y", takes=("faces",)),
    Format("glb-splats", None, "Gaussian splats of one moment in glTF, .glb (KHR_gaussian_splatting)", _MOMENT,
           writers.write_glb_splats, up="y"),
    Format("usd-splats", None, "moving Gaussian splats in USD, .usdc or .usdz (ParticleField3DGaussianSplat)",
           "all other clips; what lies between frames; confidence", writers.write_usd_splats, up="y"),
    Format("3dgs", None, "Gaussian splats of one moment in the layout of 3D Gaussian Splatting, .ply", _MOMENT,
           writers.write_gaussians),
    Format("ply-seq", "", "a folder with such a file for every frame of one clip",
           "what lies between frames; all other clips; confidence", writers.write_sequence),
    Format("splat", ".splat", "splats of one moment, 32 bytes each",
           f"{_MOMENT}; view-dependent colour; bytes for colour, opacity and rotation", writers.write_splat),
    Format("spz", ".spz", "splats of one moment, quantised and gzipped (Niantic)",
           f"{_MOMENT}; bytes for all but positions and rotations; thinness below 5e-5", writers.write_spz),
    Format("sog", ".sog", "splats of one moment, quantised in images (PlayCanvas)",
           f"{_MOMENT}; 16-bit positions, bytes for all else", writers.write_sog),
)  # fmt: skip


def describe() -> str:
    """The table of `export --list`."""
    rows = [(row.name, _file_of(row), row.about, row.loses) for row in FORMATS]
    return table(rows, ("format", "file", "what it is", "what it loses"))


def _file_of(row: Format) -> str:
    return {"": "folder", None: "(--format)"}.get(row.extension, str(row.extension))


def choose(output: Path, name: str | None = None) -> Format:
    """The format of that name, or the one of the output's extension. Raises FourdgenError where there is none."""
    known = ", ".join(row.name + (f" ({row.extension})" if row.extension else "") for row in FORMATS)
    extension = output.suffix.lower()
    extension = {".usd": ".usdc", ".usda": ".usdc"}.get(extension, extension)  # the writer goes by the name's own
    for row in FORMATS:
        if row.name == name or (name is None and row.extension and row.extension == extension):
            return row
    said = f"no such export format: {name}" if name else f"{output}: no export format has this extension"
    raise FourdgenError(said, f"formats: {known}; choose one by extension or with --format")


def export(
    scene: Path | Scene4D,
    output: Path,
    name: str | None = None,
    adapt: Adapt | None = None,
    report: Reporter = Silent(),
    device: str = "cpu",
    mesh: MeshOptions = PLAIN,
) -> Path:
    """Writes a scene, or that of a file, in a format; returns the output. All that is wrong with the options is said
    before the scene is read. Raises FourdgenError where the scene has no such clip, time or frames, too."""
    row = choose(output, name)
    _check_mesh(row, mesh)
    adapt = adapt or Adapt()
    check_adapt(adapt)
    if isinstance(scene, Path):
        if row.name != "scene" and output.exists() and output.samefile(scene):
            raise FourdgenError(
                f"{output} is the asset itself, and {row.name} would lose its motion", "name another file"
            )
        scene = files.read(scene, report)
    if row.extension != "" and output.is_dir():
        raise FourdgenError(f"{output} is a folder", "give another name")
    if row.up == "":
        adapt = replace(adapt, up=None)
    placed = bool(adapt.up or adapt.origin or adapt.scale != 1)
    setup = Setup(report, device, placed, adapt.up or row.up or ROOT_UP, mesh)
    row.write(output, adapted(scene, adapt, row.up or ROOT_UP), setup)
    return output


def _check_mesh(row: Format, mesh: MeshOptions) -> None:
    """Raises FourdgenError for options of a mesh that make no sense, or not in this format."""
    for option in fields(mesh):
        if getattr(mesh, option.name) != option.default and option.name not in row.takes:
            able = ", ".join(other.name for other in FORMATS if option.name in other.takes)
            flag = option.name.replace("_", "-")
            raise FourdgenError(f"--{flag} means nothing to the format {row.name}", f"formats that take it: {able}")
    if mesh.faces and mesh.faces < 100:
        raise FourdgenError(f"--faces {mesh.faces}: too few for a subject", "give 100 or more")
    if mesh.texture and not 64 <= mesh.texture <= 8192:
        raise FourdgenError(f"--texture {mesh.texture}: not a texture size", "give 64 to 8192, such as 1024")
    if mesh.fit_texture and not mesh.texture:
        raise FourdgenError("--fit-texture needs a texture", "give --texture 1024 as well")
