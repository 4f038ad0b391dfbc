"""The table of export formats, and the choice among them by name or by the output's extension."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fourdgen.report import FourdgenError
from fourdgen.scene import files
from fourdgen.scene.entries import clip_of
from fourdgen.scene.formats import cameras, html, splats
from fourdgen.scene.scene4d import Scene4D


@dataclass(frozen=True)
class Moment:
    """The time at which a format without motion is written."""

    clip: str
    seconds: float


@dataclass(frozen=True)
class Format:
    """`extension` picks the format where no name is given; None: by name only."""

    name: str
    extension: str | None
    about: str
    write: Callable[[Path, Scene4D, Moment], None]


def _write_scene(path: Path, scene: Scene4D, moment: Moment) -> None:
    files.write(path, scene)


def _write_cameras(path: Path, scene: Scene4D, moment: Moment) -> None:
    cameras.write(path, scene)


def _write_splats(path: Path, scene: Scene4D, moment: Moment) -> None:
    splats.write(path, scene, moment.clip, moment.seconds)


def _write_html(path: Path, scene: Scene4D, moment: Moment) -> None:
    html.write(path, scene, clip=moment.clip)


FORMATS = (
    Format("scene", ".ply", "the whole 4D asset, as reconstruct writes it", _write_scene),
    Format("cameras", ".json", "cameras of the input frames, nerfstudio layout with clip and frame", _write_cameras),
    Format("html", ".html", "a page that plays the asset in a browser, offline", _write_html),
    Format("3dgs", None, "static Gaussian splats at one time (--clip, --time SECONDS), .ply", _write_splats),
)


def choose(output: Path, name: str | None = None) -> Format:
    """The format of that name, or the one of the output's extension. Raises FourdgenError where there is none."""
    known = ", ".join(row.name + (f" ({row.extension})" if row.extension else "") for row in FORMATS)
    for row in FORMATS:
        if row.name == name or (name is None and row.extension == output.suffix.lower()):
            return row
    said = f"no such export format: {name}" if name else f"{output}: no export format has this extension"
    raise FourdgenError(said, f"formats: {known}; choose one by extension or with --format")


def export(
    scene: Scene4D, output: Path, name: str | None = None, clip: str | None = None, seconds: float | None = None
) -> Path:
    """Writes a scene in a format; `clip` and `seconds` matter only to formats without motion. Returns the output."""
    row = choose(output, name)
    chosen = clip_of(scene, clip or scene.reference)
    moment = Moment(chosen.name, float(chosen.seconds[0]) if seconds is None else seconds)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        row.write(output, scene, moment)
    except OSError as error:
        raise FourdgenError(
            f"{output} cannot be written: {error.strerror or error}", "free some space, or choose another place"
        ) from None
    return output
