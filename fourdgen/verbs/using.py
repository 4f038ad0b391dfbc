"""Verbs that use a finished asset: pictures of it, other formats, the viewer, its score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourdgen.report import ConsoleReporter, FourdgenError
from fourdgen.verbs.options import Device, Json, SceneFile, Threads
from fourdgen.verbs.speaking import speaking


def render(
    scene: SceneFile,
    orbit: Annotated[bool, typer.Option("--orbit", help="A camera that circles the subject (the default).")] = False,
    source: Annotated[str | None, typer.Option(metavar="CLIP", help="Your own clip again, side by side.")] = None,
    cameras: Annotated[Path | None, typer.Option(help="One picture per entry of a transforms.json.")] = None,
    path: Annotated[str | None, typer.Option(metavar="spiral|bullet", help="A camera path.")] = None,
    clip: Annotated[str | None, typer.Option(metavar="NAME", help="Whose motion. [default: the reference]")] = None,
    time: Annotated[str, typer.Option(metavar="loop|freeze:SECONDS", help="How time goes by.")] = "loop",
    size: Annotated[
        str,
        typer.Option(metavar="WxH", help="Picture size; one number for a square. [default: 640; --source: as filmed]"),
    ] = "",
    fps: Annotated[float | None, typer.Option(help="Pictures a second. [default: 30; --source: the clip's]")] = None,
    speed: Annotated[float, typer.Option(help="Speed of the motion.")] = 1.0,
    elevation: Annotated[float, typer.Option(help="Height of the camera in degrees.")] = 15.0,
    channel: Annotated[str, typer.Option(metavar="rgb|normal|depth|alpha|confidence", help="What to draw.")] = "rgb",
    background: Annotated[
        str, typer.Option(metavar="COLOR", help="Name or #rrggbb. [default: white; clear in PNG and WebP]")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A .mp4, .gif, .webp, or a folder (PNG).")
    ] = None,
    exr: Annotated[bool, typer.Option("--exr", help="Depth in a folder as float EXR, not as 16-bit PNG.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """A video, an animation or pictures of an asset.

    \b
    Example:
      fourdgen render scene.ply --orbit
      fourdgen render scene.ply --source walk -o beside.mp4
      fourdgen render scene.ply --path bullet --time freeze:0.5 --channel normal -o bullet.gif
    """
    with speaking(json, "render") as report:
        from fourdgen.machine import pick_device, use_threads
        from fourdgen.playback import RenderRequest, check_request
        from fourdgen.playback import render as draw
        from fourdgen.scene import ply

        ply.check(scene)
        request = RenderRequest(
            orbit=orbit, source=source, cameras=cameras, path=path, clip=clip, time=time, size=size, fps=fps,
            speed=speed, elevation=elevation, channel=channel, output=output, background=background, exr=exr,
        )  # fmt: skip
        check_request(request)
        use_threads(threads)
        report.places["output"] = draw(scene, request, report, device=pick_device(device))


def _formats(wanted: bool) -> None:
    if wanted:
        from fourdgen.playback.formats import describe

        ConsoleReporter().result(describe())
        raise typer.Exit()


def export(
    scene: SceneFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="File or folder to write.", show_default=False)],
    format: Annotated[str | None, typer.Option("--format", metavar="NAME", help="[default: by extension]")] = None,
    clip: Annotated[str | None, typer.Option(metavar="NAME", help="Only this clip. [default: all it can hold]")] = None,
    frames: Annotated[str, typer.Option(metavar="N|A:B:STEP", help="At most N frames, or those named.")] = "",
    fps: Annotated[float | None, typer.Option(help="Frames a second. [default: the clip's own]")] = None,
    time: Annotated[str, typer.Option(metavar="loop|SECONDS", help="Close the motion, or one moment of it.")] = "",
    speed: Annotated[float, typer.Option(help="Speed of the motion; 0.5 is slow motion.")] = 1.0,
    crop_confidence: Annotated[float, typer.Option(help="Leave out what is less confident (0 to 1).")] = 0.0,
    up: Annotated[str | None, typer.Option(metavar="y|z", help="Axis that points up. [default: the format's]")] = None,
    scale: Annotated[float, typer.Option(help="Lengths are multiplied by this.")] = 1.0,
    origin: Annotated[str, typer.Option(metavar="feet|centre|input", help="What is at 0 (input: your cameras')")] = "",
    faces: Annotated[
        int, typer.Option(help="Meshes: about this many triangles at most. [default: all]", show_default=False)
    ] = 0,
    texture: Annotated[int, typer.Option(metavar="SIZE", help="glb: a baked texture, not vertex colours.")] = 0,
    fit_texture: Annotated[bool, typer.Option("--fit-texture", help="Sharpen it by nvdiffrast (CUDA).")] = False,
    compress: Annotated[bool, typer.Option("--compress", help="The whole asset, but small (a .sog).")] = False,
    list_formats: Annotated[
        bool, typer.Option("--list", callback=_formats, is_eager=True, help="Print the formats and what each loses.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """An asset, or its cameras, for other programs.

    \b
    Example:
      fourdgen export --list
      fourdgen export scene.ply -o cameras.json
      fourdgen export scene.ply --format 3dgs --time 0.5 -o frozen.ply
      fourdgen export scene.ply --format ply-seq --fps 30 --speed 0.5 --time loop -o slow/
    """
    with speaking(json, "export") as report:
        from fourdgen.playback import formats
        from fourdgen.scene import ply
        from fourdgen.scene.options import Adapt

        ply.check(scene)
        if compress and format not in (None, "compressed"):
            raise FourdgenError(f"--compress and --format {format} are two formats", "leave one of them out")
        name = "compressed" if compress else format
        adapt = Adapt(
            clip=clip, frames=frames, fps=fps, time=time, speed=speed, crop_confidence=crop_confidence, up=up,
            scale=scale, origin=origin,
        )  # fmt: skip
        mesh = formats.MeshOptions(faces, texture, fit_texture)
        formats.check(output, name, adapt, mesh, scene)
        from fourdgen.machine import pick_device, use_threads

        use_threads(threads)
        from fourdgen.playback import exports

        report.places["output"] = exports.export(scene, output, name, adapt, report, pick_device(device), mesh)


def view(
    scene: Annotated[
        Path, typer.Argument(metavar="SCENE|RUN", help="A scene.ply, or the folder of a run.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="[default: 8080 or the next free]", show_default=False)] = None,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """A live viewer in the browser; of a run also while it trains. Ctrl-C ends it.

    \b
    Example:
      fourdgen view scene.ply
      fourdgen view scene.run --port 9000
    """
    with speaking(json, "view") as report:
        from fourdgen import checks

        checks.scene_or_run(scene)
        checks.port(port)
        from fourdgen.machine import pick_device, use_threads

        use_threads(threads)
        from fourdgen.view import live

        live.view(scene, host, port, report, device=pick_device(device))


def evaluate(
    scene: SceneFile,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder with held-out views: transforms.json, truth/; or its name in FOURDGEN_BENCH. "
            "[default: the folder that the clips come from]",
            show_default=False,
        ),
    ] = None,
    save_cameras: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the cameras that the views were drawn with.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Figures against held-out cameras: pictures, surface, tracks, poses.

    \b
    Example:
      fourdgen eval scene.ply --truth bench/fox
      fourdgen eval scene.ply --truth bench/fox --json > figures.json
    """
    with speaking(json, "eval", answers=True) as report:
        from fourdgen import api

        figures = api.evaluate(scene, truth, save_cameras=save_cameras, device=device, threads=threads, report=report)
        from fourdgen.evaluate import table

        report.result(table(figures), figures)
        if save_cameras is not None:
            report.places["cameras"] = save_cameras
