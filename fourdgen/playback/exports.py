"""The verb `export`: the table of formats, the choice among them, and the way from a scene to a file.

A new format is one file in scene/formats (or wherever it needs to stand) and one row here. A row's function gets a
scene in which all of `Adapt` has been done: it writes the clips that are there, at their own frames and seconds, in the
coordinates that it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fourdgen.report import FourdgenError, Reporter, Silent, table
from fourdgen.scene import files
from fourdgen.scene.adapt import Adapt, adapted
from fourdgen.scene.adapt import check as check_adapt
from fourdgen.scene.formats import cameras, html, sog, splats
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.whole import whole_file


@dataclass(frozen=True)
class Setup:
    """What a format may need besides the scene: whom to tell, and where to compute."""

    report: Reporter = Silent()
    device: str = "cpu"
    placed: bool = False  # the user asked for axes, a scale or an origin


@dataclass(frozen=True)
class Format:
    """`extension` picks the format where no name is given; "" : by name only, into a folder; None: by name only.

    `up`: the axis that points up where `--up` says nothing: -y (the root frame's, and the custom of splat files), y, z;
    "": it shows the subject upright by itself, and `--up` means nothing.
    """

    name: str
    extension: str | None
    about: str
    loses: str
    write: Callable[[Path, Scene4D, Setup], None]
    up: str = "-y"


def _scene(path: Path, scene: Scene4D, setup: Setup) -> None:
    files.write(path, scene)


def _cameras(path: Path, scene: Scene4D, setup: Setup) -> None:
    # Who places the scene wants the cameras that see it there, and not those of the coordinates that were given.
    with whole_file(path) as part:
        cameras.write(part, replace(scene, world_from_input=None) if setup.placed else scene)


def _html(path: Path, scene: Scene4D, setup: Setup) -> None:
    html.write(path, scene)


def _3dgs(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_3dgs(path, splats.at_moment(scene))


def _sequence(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_sequence(path, scene, setup.report)


def _splat(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_splat(path, splats.at_moment(scene))


def _spz(path: Path, scene: Scene4D, setup: Setup) -> None:
    splats.write_spz(path, splats.at_moment(scene))


def _sog(path: Path, scene: Scene4D, setup: Setup) -> None:
    sog.write(path, splats.at_moment(scene))


ROOT_UP = "-y"
_MOMENT = "all motion but one moment (--time)"
FORMATS = (
    Format("scene", ".ply", "the whole 4D asset, as reconstruct writes it", "nothing", _scene),
    Format("cameras", ".json", "cameras of the input frames, nerfstudio layout with clip and frame",
           "the asset: cameras only", _cameras),
    Format("html", ".html", "a page that plays the asset in a browser, offline",
           "confidence, cameras; bytes for colour, 16 bits for rotation and size", _html, up=""),
    Format("3dgs", None, "Gaussian splats of one moment in the layout of 3D Gaussian Splatting, .ply", _MOMENT, _3dgs),
    Format("ply-seq", "", "a folder with such a file for every frame of one clip",
           "what lies between frames; all other clips", _sequence),
    Format("splat", ".splat", "splats of one moment, 32 bytes each",
           f"{_MOMENT}; view-dependent colour; bytes for colour, opacity and rotation", _splat),
    Format("spz", ".spz", "splats of one moment, quantised and gzipped (Niantic)",
           f"{_MOMENT}; bytes for all but positions and rotations; thinness below 5e-5", _spz),
    Format("sog", ".sog", "splats of one moment, quantised in images (PlayCanvas)",
           f"{_MOMENT}; 16-bit positions, bytes for all else", _sog),
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
    for row in FORMATS:
        if row.name == name or (name is None and row.extension and row.extension == output.suffix.lower()):
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
) -> Path:
    """Writes a scene, or that of a file, in a format; returns the output. All that is wrong with the options is said
    before the scene is read. Raises FourdgenError where the scene has no such clip, time or frames, too."""
    row = choose(output, name)
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
    row.write(output, adapted(scene, adapt, row.up or ROOT_UP), Setup(report, device, placed))
    return output
