"""What `fourdgen.reconstruct`, `fourdgen.evaluate` and `fourdgen.save` are. Importing this costs next to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from fourdgen.config import by_clip
from fourdgen.report import FourdgenError, Reporter, Silent

if TYPE_CHECKING:
    from fourdgen.planning import Request
    from fourdgen.scene.scene4d import Scene4D

AnyPath = str | PathLike[str]

# Options of `reconstruct` that are settings of a stage under a shorter name.
SHORT = {
    "box": "ingest.box", "frames": "ingest.frames", "size": "ingest.size", "fov": "align.fov", "turn": "align.turn",
    "sweep": "align.sweep", "reference": "align.reference", "sync": "align.sync", "max_surfels": "train.max_surfels",
}  # fmt: skip


class Options(TypedDict, total=False):
    """How to reconstruct; None is the same as left out. The command line has the same options under the same names."""

    pipeline: str | None  # recipe name or .toml file; default: quality with a GPU, else fast
    cameras: AnyPath | None  # transforms.json or a COLMAP model
    masks: AnyPath | None  # DIR/<clip>/*.png, or DIR/*.png for one clip
    run: AnyPath | None  # run folder; default: scene.run beside the output
    device: str  # auto, cpu or cuda
    seed: int
    threads: int | None
    fresh: bool  # start anew instead of going on
    settings: Mapping[str, Any] | Sequence[str]  # {"train.steps": [60, 40]}, or texts such as "train.steps=60,40"
    # box, fov, turn and sweep may have one value for each clip by name: {"a": "cw", "b": "ccw"}, or "a=cw,b=ccw"
    box: str | Sequence[float] | Mapping[str, Sequence[float]] | None  # x, y, w, h of the subject in the first frame
    frames: int | None
    size: int | None
    fov: float | str | Mapping[str, float] | None  # of the longer side, degrees; given, it is kept
    turn: str | Mapping[str, str] | None  # cw, ccw, none
    sweep: float | str | Mapping[str, float] | None  # degrees
    reference: str | None
    sync: bool | None
    max_surfels: int | None


def request(clips: AnyPath | Sequence[AnyPath], output: AnyPath, **options: Unpack[Options]) -> Request:
    """What `planning.plan` and `pipeline.reconstruct` take. Raises TypeError for an option that does not exist."""
    from fourdgen.planning import Request

    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise TypeError(f"no such option of reconstruct: {', '.join(sorted(unknown))}")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    short = {SHORT[name]: value for name, value in given.items() if name in SHORT}
    if "fov" in given:
        held = _held(_text(given["fov"]))  # whoever knows it does not want it moved
        short |= {"root_pose.focal": held, "train.focal": held}
    extra = given.get("settings", ())
    texts = [f"{name}={_text(value)}" for name, value in extra.items()] if isinstance(extra, Mapping) else list(extra)
    again = {text.partition("=")[0].strip() for text in texts}
    return Request(
        inputs=tuple(Path(clip) for clip in ([clips] if isinstance(clips, str | PathLike) else clips)),
        output=Path(output),
        pipeline=given.get("pipeline"),
        settings=(*(f"{name}={_text(value)}" for name, value in short.items()), *texts),
        options={SHORT[name]: _option(name) for name in given if name in SHORT and SHORT[name] not in again},
        cameras=_path(given.get("cameras")),
        masks=_path(given.get("masks")),
        run_folder=_path(given.get("run")),
        device=given.get("device", "auto"),
        seed=given.get("seed", 0),
        threads=given.get("threads"),
        fresh=given.get("fresh", False),
    )


def reconstruct(
    clips: AnyPath | Sequence[AnyPath],
    output: AnyPath = "scene.ply",
    *,
    report: Reporter = Silent(),
    **options: Unpack[Options],
) -> Scene4D:
    """Videos, GIFs or picture folders in, a 4D asset out: written to `output`, and returned.

    Goes on where an earlier call with the same options stopped. `report` hears of progress and warnings. Raises
    FourdgenError for whatever the caller can put right, most of it before any work.
    """
    from fourdgen import pipeline

    done = pipeline.reconstruct(request(clips, output, **options), report)
    from fourdgen.scene import files

    return files.read(done.scene)


def evaluate(
    scene: AnyPath,
    truth: AnyPath | None = None,
    *,
    save_cameras: AnyPath | None = None,
    device: str = "auto",
    threads: int | None = None,
    report: Reporter = Silent(),
) -> dict[str, Any]:
    """Figures of a scene.ply against held-out views, by the keys of `fourdgen eval --json`; None: cannot be scored.

    truth: a folder with truth/transforms.json and pictures beside it, and transforms.json with the input cameras; None:
    the folder that the scene's clips come from. Raises FourdgenError where there is nothing to compare with.
    """
    from fourdgen import checks
    from fourdgen.scene import ply

    path, cameras = Path(scene), _path(save_cameras)
    ply.check(path)
    folder = checks.truth_folder(_path(truth), path)
    if cameras is not None:
        checks.output_file(cameras)
    from fourdgen.evaluate import evaluate as score
    from fourdgen.machine import pick_device, use_threads

    use_threads(threads)
    return score(path, folder, cameras, report, device=pick_device(device))


def save(scene: Scene4D, path: AnyPath) -> None:
    """Writes a scene.ply, whole or not at all. Raises FourdgenError where the place cannot be written."""
    from fourdgen.scene import files
    from fourdgen.scene.scene4d import Scene4D

    if not isinstance(scene, Scene4D):
        raise FourdgenError(f"{type(scene).__name__} is no scene that can be saved", "save(scene, path)")
    files.write(Path(path), scene)


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _held(fov: str) -> str:
    """Setting `focal` of root_pose and train where --fov is this text."""
    try:
        return ";".join(f"{name}=false" for name in by_clip(fov))
    except ValueError:
        return "false"


def _text(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, Mapping):
        return ";".join(f"{name}={_text(item)}" for name, item in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_text, value))
    return "none" if value is None else str(value)
