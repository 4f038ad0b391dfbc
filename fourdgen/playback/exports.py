"""The verb `export`: the way from a scene to a file. The table of formats is in formats.py.

A format's function gets a scene in which all of `Adapt` has been done: it writes the clips that are there, at their own
frames and seconds, in the coordinates that it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fourdgen import disk
from fourdgen.playback import formats, writers
from fourdgen.playback.formats import PLAIN, ROOT_UP, Format, MeshOptions
from fourdgen.playback.writers import Setup
from fourdgen.report import Reporter, Silent, bytes_read
from fourdgen.scene import files
from fourdgen.scene.adapt import adapted
from fourdgen.scene.options import Adapt, moment_of
from fourdgen.scene.scene4d import Scene4D

WRITERS: dict[str, Callable[[Path, Scene4D, Setup], None]] = {
    "scene": writers.write_scene,
    "compressed": writers.write_compressed,
    "cameras": writers.write_cameras,
    "colmap": writers.write_colmap,
    "html": writers.write_html,
    "glb": writers.write_glb,
    "usd": writers.write_usd,
    "usdz": writers.write_usd,
    "usd-cache": writers.write_usd_cache,
    "obj-seq": writers.write_obj_sequence,
    "mesh-seq": writers.write_mesh_sequence,
    "glb-splats": writers.write_glb_splats,
    "usd-splats": writers.write_usd_splats,
    "3dgs": writers.write_gaussians,
    "ply-seq": writers.write_sequence,
    "splat": writers.write_splat,
    "spz": writers.write_spz,
    "sog": writers.write_sog,
}


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
    adapt = adapt or Adapt()
    row = formats.check(output, name, adapt, mesh, scene if isinstance(scene, Path) else None)
    if isinstance(scene, Path):
        scene = files.read(scene, report)
    placed = bool(adapt.up or adapt.origin or adapt.scale != 1)
    setup = Setup(report, device, placed, adapt.up or row.up or ROOT_UP, mesh)
    shown = adapted(scene, adapt, row.up or ROOT_UP)
    disk.make_folder(output.parent, report)
    WRITERS[row.name](output, shown, setup)
    _say_what_was_written(row, adapt, scene, shown, output, report)
    return output


def _say_what_was_written(
    row: Format, adapt: Adapt, scene: Scene4D, shown: Scene4D, output: Path, report: Reporter
) -> None:
    """How large it is, how much of the asset is in it, and which moment: for the closing line."""
    files_ = [path for path in output.iterdir() if path.is_file()] if output.is_dir() else [output]
    size = sum(path.stat().st_size for path in files_)
    files_read = f" in {len(files_)} files" if output.is_dir() else ""
    report.emit("fact", name="size", text=bytes_read(size) + files_read, bytes=size, bare=True)
    kept, of = len(shown.surfels), len(scene.surfels)
    if "crop_confidence" not in row.ignores:
        said = f"kept {kept} of {of} surfels" if kept < of else f"{of} surfels"
        report.emit("fact", name="surfels", text=said, kept=kept, of=of, bare=True)
    moment = moment_of(adapt.time)
    if row.moment or moment is not None:
        clip = shown.clips[shown.reference]
        seconds = float(clip.seconds[0])
        shows = f"clip {clip.name} at {seconds:g} s"
        report.emit("fact", name="moment", text=shows, clip=clip.name, seconds=seconds, bare=True)
