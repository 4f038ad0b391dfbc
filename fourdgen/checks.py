"""What the verbs check before anything heavy is imported: a wrong path is said at once, not after seconds."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from fourdgen import disk, workspace
from fourdgen.report import FourdgenError, absent
from fourdgen.scene import ply

BENCH = "FOURDGEN_BENCH"  # environment variable: a folder of truth folders
_LIST = "transforms.json"
_TRUTH_HINT = (
    "a truth folder has truth/transforms.json with pictures beside it, and transforms.json with the input cameras"
)


def scene_or_run(path: Path) -> None:
    """Raises FourdgenError for what is neither a scene.ply nor a folder."""
    if not path.is_dir():
        ply.check(path)


def output_file(path: Path) -> None:
    """Raises FourdgenError when a file cannot be written there: it is a folder, or its folder takes no files."""
    if path.is_dir():
        raise FourdgenError(f"{path} is a folder", "name a file in it")
    disk.check_writable(path.parent)


def port(number: int | None) -> None:
    """Raises FourdgenError for a number that no port has."""
    if number is not None and not 1 <= number <= 65535:
        raise FourdgenError(f"--port {number}: not a port", "give a number from 1 to 65535, or leave it out")


def truth_folder(given: Path | None, scene: Path) -> Path:
    """The folder of held-out views to compare a scene with.

    given: a path, or the name of a folder in FOURDGEN_BENCH. None: the folder that the clips of the scene come from, if
    it holds held-out views. Raises FourdgenError where there is none.
    """
    if given is None:
        for folder in _around_inputs(scene):
            if (folder / "truth" / _LIST).is_file():
                return folder
        raise FourdgenError(
            "there is nothing to compare with: no held-out views beside the clips of this scene",
            f"give --truth DIR; {_TRUTH_HINT}",
        )
    bench = os.environ.get(BENCH, "")
    for folder in (given, Path(bench) / given) if bench else (given,):
        if folder.exists():
            if (folder / "truth" / _LIST).is_file() or (folder / _LIST).is_file():
                return folder
            raise FourdgenError(f"{folder}: no held-out views here", _TRUTH_HINT)
    raise absent(given, _TRUTH_HINT + ("" if bench else f"; {BENCH} may name a folder of such folders"))


def _around_inputs(scene: Path) -> list[Path]:
    """The folders that the clips of a scene lie in, and those above; none where the run folder is gone."""
    said = ply.comment_of(scene, "run folder: ")  # in ASCII, with escapes
    try:
        run = said.encode("ascii").decode("unicode_escape")
        inputs = tomllib.loads((Path(run) / workspace.RUN).read_text(encoding="utf-8"))["paths"]["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [folder for text in inputs for folder in (Path(text).parent, Path(text).parent.parent)]
