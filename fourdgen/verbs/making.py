"""Verbs that make something new: an asset of videos, and videos of views that nobody filmed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fourdgen.verbs.options import Device, Json, SceneFile, Threads
from fourdgen.verbs.speaking import speaking


def _joined(values: list[str] | None) -> str | None:
    """What an option says that may be given once for each clip."""
    return ";".join(values) if values else None


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
    # These four take one value for all clips, or one for each: a=cw,b=ccw, or the option again for every clip.
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLIP=]X,Y,W,H",
            help="Where the subject is in the first frame, in pixels; repeatable.",
            show_default=False,
        ),
    ] = None,
    fov: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLIP=]DEGREES",
            help="Field of view of the longer side, 2 to 150. [default: found]",
            show_default=False,
        ),
    ] = None,
    turn: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLIP=]auto|cw|ccw|none",
            help="How the subject turns, seen from above: cw is clockwise, and + where degrees are printed. "
            "a=cw,b=ccw for each clip. [default: auto]",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLIP=]DEGREES",
            help="By how much it turns in a clip, above 0, at most 1440. [default: found]",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="CLIP", help="Clip that the others are registered to. [default: the surest]", show_default=False
        ),
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
        int | None,
        typer.Option(
            help="Use at most this many frames of a clip (2 or more), spread evenly over it; 0: all. [default: 400]",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Longer side of the frames in pixels, at most; 0: as filmed. [default: the recipe's]",
            show_default=False,
        ),
    ] = None,
    max_surfels: Annotated[
        int | None,
        typer.Option(
            help="At most this many surfels; 0: as many as its pixels ask for. [default: the recipe's]",
            show_default=False,
        ),
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
        inputs, output, pipeline=pipeline, cameras=cameras, masks=masks, box=_joined(box), fov=_joined(fov),
        turn=_joined(turn), sweep=_joined(sweep),
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
        str | None,
        typer.Option(
            metavar="fill|video|MODULE:CLASS", help="What makes the views. [default: fill; video with --model]"
        ),
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
