"""The table of export formats and the choice among them. Nothing here needs torch, so that a refusal is quick.

A new format is one file in scene/formats (or wherever it needs to stand), one row here and one in exports.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from fourdgen import disk
from fourdgen.report import FourdgenError, table
from fourdgen.scene import options
from fourdgen.scene.options import Adapt


@dataclass(frozen=True)
class MeshOptions:
    """What is asked of a mesh."""

    faces: int = 0  # at most about this many triangles; 0: as many as there are
    texture: int = 0  # side of a texture in texels; 0: colours at the vertices
    fit_texture: bool = False  # fit the texture by nvdiffrast (CUDA)


@dataclass(frozen=True)
class Format:
    """`extensions` are those that its file may have, the first the usual one; none: it is a folder. `by_name`: only
    `--format` picks it, because the extension belongs to another format, or because it is a folder.

    `up`: the axis that points up where `--up` says nothing: -y (the root frame's, and the custom of splat files), y, z;
    "": it shows the subject upright by itself. `takes`: which of MeshOptions it heeds. `ignores`: which fields of Adapt
    mean nothing to it; "loop" is the time loop. `moment`: it holds one moment.
    """

    name: str
    extensions: tuple[str, ...]
    about: str
    loses: str
    up: str = "-y"
    takes: tuple[str, ...] = ()
    by_name: bool = False
    ignores: tuple[str, ...] = ()
    moment: bool = False


ROOT_UP = "-y"
_USD = (".usdc", ".usda", ".usd", ".usdz")
_TIME = ("frames", "fps", "speed", "loop")
PLAIN = MeshOptions()
_SURFACE = "softness, transparency, view-dependent colour, confidence; fine strands close up"
_MOMENT = "all motion but one moment (--time); confidence"
FORMATS = (
    Format("scene", (".ply",), "the whole 4D asset, as reconstruct writes it", "nothing"),
    Format("compressed", (".sog",), "the whole 4D asset, small (--compress); splat viewers show its rest pose",
           "digits: positions to 12 bits, rotations to 8, sizes and colours to 6, motion to 4e-4", by_name=True),
    Format("cameras", (".json",), "cameras of the input frames, nerfstudio layout with clip and frame",
           "the asset: cameras only", ignores=("fps", "speed", "loop", "crop_confidence")),
    Format("colmap", (), "the same cameras as a COLMAP model in text, with the surfels as points",
           "the asset: cameras only", by_name=True, ignores=("fps", "speed", "loop")),
    Format("html", (".html",), "a page that plays the asset in a browser, offline",
           "cameras; bytes for colour and confidence, 16 bits for rotation and size", up="", ignores=("up",)),
    Format("glb", (".glb",), "a skinned mesh with an animation for each clip (glTF 2.0)",
           f"{_SURFACE}; bones blend linearly (the difference is printed)", up="y",
           takes=("faces", "texture", "fit_texture")),
    Format("usd", _USD[:3], "the same as a UsdSkel mesh", f"{_SURFACE}; bones blend linearly", up="y",
           takes=("faces",)),
    Format("usdz", (".usdz",), "the same in one package, for AR viewers", f"{_SURFACE}; bones blend linearly",
           up="y", takes=("faces",)),
    Format("usd-cache", _USD, "the mesh as a USD point cache, with our own skinning",
           f"{_SURFACE}; all other clips; what lies between frames", up="y", takes=("faces",), by_name=True),
    Format("obj-seq", (), "a folder with a mesh (OBJ) for every frame of one clip, same faces in all",
           f"{_SURFACE}; all other clips", up="y", takes=("faces",), by_name=True),
    Format("mesh-seq", (), "the same as binary PLY", f"{_SURFACE}; all other clips", up="y", takes=("faces",),
           by_name=True),
    Format("glb-splats", (".glb",), "Gaussian splats of one moment in glTF (KHR_gaussian_splatting)", _MOMENT,
           up="y", by_name=True, ignores=_TIME, moment=True),
    Format("usd-splats", _USD, "moving Gaussian splats in USD (ParticleField3DGaussianSplat)",
           "all other clips; what lies between frames; confidence", up="y", by_name=True),
    Format("3dgs", (".ply",), "Gaussian splats of one moment in the layout of 3D Gaussian Splatting", _MOMENT,
           by_name=True, ignores=_TIME, moment=True),
    Format("ply-seq", (), "a folder with such a file for every frame of one clip",
           "what lies between frames; all other clips; confidence", by_name=True),
    Format("splat", (".splat",), "splats of one moment, 32 bytes each",
           f"{_MOMENT}; view-dependent colour; bytes for colour, opacity and rotation",
           ignores=_TIME, moment=True),
    Format("spz", (".spz",), "splats of one moment, quantised and gzipped (Niantic)",
           f"{_MOMENT}; bytes for all but positions and rotations; thinness below 5e-5",
           ignores=_TIME, moment=True),
    Format("sog", (".sog",), "splats of one moment, quantised in images (PlayCanvas)",
           f"{_MOMENT}; 16-bit positions, bytes for all else", ignores=_TIME, moment=True),
)  # fmt: skip
_ELSEWHERE = {  # extensions of formats that other programs have, and what to do instead
    ".obj": "meshes as OBJ are a folder, a file for each frame: --format obj-seq -o FOLDER",
    ".gltf": "glTF is written as one binary file: name it .glb",
    ".fbx": "FBX is not written; a .glb holds the same, and most programs read it",
    ".abc": "Alembic is not written; --format obj-seq -o FOLDER or --format usd-cache -o FILE.usdc hold the same",
    ".mp4": "`fourdgen render` makes videos",
}


def describe() -> str:
    """The table of `export --list`."""
    rows = [(row.name, _file_of(row), row.about, row.loses) for row in FORMATS]
    return table(rows, ("format", "file", "what it is", "what it loses"))


def _file_of(row: Format) -> str:
    return " ".join(row.extensions or ("folder",)) + (" (--format)" if row.by_name else "")


def choose(output: Path, name: str | None = None) -> Format:
    """The format of that name, or the one of the output's extension. Raises FourdgenError where there is none, and
    where the two do not agree."""
    extension = output.suffix.lower()
    for row in FORMATS:
        if row.name == name or (name is None and not row.by_name and extension in row.extensions):
            _check_extension(row, output)
            return row
    known = ", ".join(row.name + (f" ({row.extensions[0]})" if not row.by_name else "") for row in FORMATS)
    said = f"no such export format: {name}" if name else f"{output}: no export format has this extension"
    hint = "" if name else _ELSEWHERE.get(extension, "")
    raise FourdgenError(said, hint or f"formats: {known}; choose one by extension or with --format")


def _check_extension(row: Format, output: Path) -> None:
    """Raises FourdgenError where the output's name promises another format than the one that would be written."""
    extension = output.suffix.lower()
    if row.extensions and extension not in row.extensions:
        flag = "--compress" if row.name == "compressed" else f"--format {row.name}"
        raise FourdgenError(
            f"{flag} does not write {extension or 'files without an extension'}",
            f"name the output {output.with_suffix(row.extensions[0])}, or leave {flag} out",
        )
    if not row.extensions and any(extension in other.extensions for other in FORMATS):
        raise FourdgenError(f"--format {row.name} writes a folder, and {output} is named as a file", "name a folder")


def check(
    output: Path, name: str | None, adapt: Adapt, mesh: MeshOptions = PLAIN, source: Path | None = None
) -> Format:
    """The format of a request. Raises FourdgenError for all that is wrong with it whatever the scene holds, and where
    nothing can be written; `source` is the asset's file."""
    row = choose(output, name)
    _check_mesh(row, mesh)
    options.check(adapt)
    _check_adapt(row, adapt)
    if row.extensions and output.is_dir():
        raise FourdgenError(f"{output} is a folder", "give another name")
    if source is not None:
        _check_source(row, adapt, source, output)
    disk.check_writable(output.parent)
    return row


def _check_source(row: Format, adapt: Adapt, source: Path, output: Path) -> None:
    """Raises FourdgenError where an asset would be replaced by something else than itself."""
    if not (output.exists() and output.samefile(source)):
        return
    if row.name != "scene":
        raise FourdgenError(
            f"{output} is the asset itself, and as {row.name} it would lose: {row.loses}", "name another file"
        )
    if changed := _asked(adapt):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise FourdgenError(
            f"{output} is the asset itself, and would be replaced by what {flags} makes of it", "name another file"
        )


def _asked(adapt: Adapt) -> list[str]:
    """Names of the fields that are not as they are by default."""
    return [field.name for field in fields(adapt) if getattr(adapt, field.name) != field.default]


def _check_adapt(row: Format, adapt: Adapt) -> None:
    """Raises FourdgenError for options that mean nothing to this format."""
    for name in [*_asked(adapt), *(["loop"] if adapt.time == "loop" else [])]:
        if name in row.ignores:
            able = ", ".join(other.name for other in FORMATS if name not in other.ignores)
            flag = "time loop" if name == "loop" else name.replace("_", "-")
            moment = "--time SECONDS chooses the moment; " if row.moment else ""
            raise FourdgenError(
                f"--{flag} means nothing to the format {row.name}", f"{moment}formats that take it: {able}"
            )


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
