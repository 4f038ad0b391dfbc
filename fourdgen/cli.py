"""The command line. Verbs parse, call the package and exit; whatever they do can be done from Python as well.

Imports stand inside the verbs, so that `fourdgen --help` answers at once; those that bring torch stand after what
can be checked without it, so that a wrong path or option is refused at once.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fourdgen.report import ConsoleReporter, FourdgenError
from fourdgen.speaking import speaking

app = typer.Typer(
    name="fourdgen",
    help="Videos of one moving subject in, one 4D asset of Gaussian surfels out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]", show_default=False)]
SceneFile = Annotated[Path, typer.Argument(metavar="SCENE", help="A scene.ply.", show_default=False)]


def main() -> None:
    # Threads that have no work sleep soon instead of turning round, or two of them starve on a busy machine: very soon
    # where many short pieces of work follow each other. It must be said before torch loads OpenMP (docs/performance.md,
    # "Threads").
    os.environ.setdefault("GOMP_SPINCOUNT", "20000" if sys.argv[1:2] == ["reconstruct"] else "1000")
    app(prog_name="fourdgen")


def _version(wanted: bool) -> None:
    if wanted:
        import fourdgen

        ConsoleReporter().result(f"fourdgen {fourdgen.__version__}")
        raise typer.Exit()


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def reconstruct(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CLIPS", help="Video files, GIFs, or folders of images (alpha is the mask).", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The scene.ply to write.")] = Path("scene.ply"),
    pipeline: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--pipeline",
            help="Recipe: fast, quality, max or a .toml file. [default: quality with a GPU, else fast]",
            show_default=False,
        ),
    ] = None,
    cameras: Annotated[
        Path | None,
        typer.Option(help="Known cameras: nerfstudio transforms.json or a COLMAP model.", show_default=False),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Known masks: DIR/<clip>/*.png, or DIR/*.png for one clip.", show_default=False)
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Where the subject is in the first frame, in pixels.", show_default=False),
    ] = None,
    fov: Annotated[
        float | None, typer.Option(help="Field of view of the longer side, in degrees.", show_default=False)
    ] = None,
    turn: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cw|ccw|none",
            help="How the subject turns, seen from above. [default: auto]",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        float | None, typer.Option(help="By how many degrees the subject turns in a clip.", show_default=False)
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="CLIP", help="Clip that the others are registered to.", show_default=False)
    ] = None,
    sync: Annotated[
        bool | None,
        typer.Option(
            "--sync/--no-sync",
            help="Whether the clips show the same motion. [default: those that plainly do]",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Use at most this many frames of a clip; 0: all.", show_default=False)
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Longer side of the frames in pixels, at most; 0: as filmed.", show_default=False)
    ] = None,
    max_surfels: Annotated[
        int | None, typer.Option(help="At most this many surfels; 0: as many as it takes.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Any setting of the recipe; repeatable.", show_default=False
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder. [default: scene.run beside the output]", show_default=False),
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    json: Json = False,
) -> None:
    """Videos in, 4D asset out. Run it again to go on where it stopped.

    \b
    Example:
      fourdgen reconstruct clips/*.mp4 -o scene.ply
      fourdgen reconstruct walk.mp4 -p quality --set train.max_surfels=8000
    """
    from fourdgen import account, api, planning
    from fourdgen import pipeline as pipelines  # `pipeline` is an option

    request = api.request(
        inputs, output, pipeline=pipeline, cameras=cameras, masks=masks, box=box, fov=fov, turn=turn, sweep=sweep,
        reference=reference, sync=sync, frames=frames, size=size, max_surfels=max_surfels, settings=settings or (),
        run=run, device=device, seed=seed, threads=threads, fresh=fresh,
    )  # fmt: skip
    request = replace(request, command=tuple(sys.argv))
    job = planning.job_of(request)
    if dry_run:
        with speaking(json, "plan", answers=True, closing=False) as report:
            planned = planning.plan(request)
            report.result(account.describe(planned), {"stages": account.plan_rows(planned)})
        return
    with speaking(json, "reconstruct", job.run_folder, job.output) as report:
        pipelines.reconstruct(request, report)


@app.command()
def render(
    scene: SceneFile,
    orbit: Annotated[bool, typer.Option("--orbit", help="A camera that circles the subject (the default).")] = False,
    source: Annotated[str | None, typer.Option(metavar="CLIP", help="Your own clip again, side by side.")] = None,
    cameras: Annotated[Path | None, typer.Option(help="One picture per entry of a transforms.json.")] = None,
    path: Annotated[str | None, typer.Option(metavar="spiral|bullet", help="A camera path.")] = None,
    clip: Annotated[str | None, typer.Option(metavar="NAME", help="Whose motion. [default: the reference]")] = None,
    time: Annotated[str, typer.Option(metavar="loop|freeze:SECONDS", help="How time goes by.")] = "loop",
    size: Annotated[str, typer.Option(metavar="WxH", help="Picture size; one number for a square.")] = "",
    fps: Annotated[float | None, typer.Option(help="Pictures a second.")] = None,
    speed: Annotated[float, typer.Option(help="Speed of the motion.")] = 1.0,
    elevation: Annotated[float, typer.Option(help="Height of the camera in degrees.")] = 15.0,
    channel: Annotated[str, typer.Option(metavar="rgb|normal|depth|alpha|confidence", help="What to draw.")] = "rgb",
    background: Annotated[
        str, typer.Option(metavar="COLOR", help="Name or #rrggbb. [default: white; clear in PNG]")
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


@app.command()
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


@app.command()
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


@app.command("eval")
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


@app.command()
def regenerate(
    scene: SceneFile,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.", show_default=False)],
    views: Annotated[
        int | None,
        typer.Option(help="Camera paths into the least covered directions. [default: 3]", show_default=False),
    ] = None,
    cameras: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Given paths: entries with `view` and `frame`.")
    ] = None,
    clip: Annotated[str | None, typer.Option(metavar="NAME", help="Whose motion. [default: the reference]")] = None,
    generator: Annotated[
        str | None, typer.Option(metavar="fill|video|MODULE:CLASS", help="What makes the views. [default: fill]")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="DIR|HUB", help="A video model, such as Wan VACE.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the video model is told.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting of regenerate; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Videos of views that nobody filmed, made under the asset's guidance.

    \b
    Example:
      fourdgen regenerate scene.ply --views 3 -o views
      fourdgen regenerate scene.ply --model Wan-AI/Wan2.1-VACE-1.3B-diffusers --set fetch=true -o views
    """
    with speaking(json, "regenerate") as report:
        from fourdgen.machine import pick_device, use_threads
        from fourdgen.playback.regenerate import RegenerateRequest, resolve
        from fourdgen.playback.regenerate import regenerate as make
        from fourdgen.scene import ply

        ply.check(scene)
        request = RegenerateRequest(output, views, cameras, clip, generator, model, prompt, seed, tuple(settings or ()))
        resolve(request)
        use_threads(threads)
        make(scene, request, report, device=pick_device(device))
        report.places["views"] = output


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as scene.run.", show_default=False)],
    json: Json = False,
) -> None:
    """What of a run is done, and how long it took.

    \b
    Example:
      fourdgen status scene.run
    """
    from fourdgen import account

    with speaking(json, "status", answers=True, closing=False) as report:
        rows = account.status(run)
        report.result(account.status_text(run, rows), {"run": str(run), "stages": rows})


@app.command()
def info(scene: SceneFile, json: Json = False) -> None:
    """What is inside a scene.ply.

    \b
    Example:
      fourdgen info scene.ply
    """
    from fourdgen import account

    with speaking(json, "info", answers=True, closing=False) as report:
        facts = account.scene_facts(scene, report)
        report.result(account.scene_text(facts), facts)


@app.command()
def doctor(
    fetch: Annotated[bool, typer.Option("--fetch", help="Get the pretrained weights that are missing.")] = False,
    json: Json = False,
) -> None:
    """What works on this machine; what to do about the rest.

    \b
    Example:
      fourdgen doctor
      fourdgen doctor --fetch
    """
    from fourdgen import doctor as doctors

    with speaking(json, "doctor", answers=True, closing=False) as report:
        findings = doctors.examine(fetch=fetch, report=report)
        report.result(doctors.text(findings), {"findings": [vars(finding) for finding in findings]})


if __name__ == "__main__":
    main()
