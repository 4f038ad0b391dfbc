"""What the live viewer looks at: a scene.ply, or a run folder whose scene.ply comes and changes while it trains."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourdgen.data.capture import Capture
from fourdgen.playback.filmed import filmed_in
from fourdgen.report import FourdgenError, figures
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from fourdgen.workspace import LOG, RUN, stage_folders

_TAIL = 1 << 16  # bytes of the log that are looked at for the last step


@dataclass
class Source:
    """A scene that may change on disk. `places` are where its file may be, the best first."""

    name: str
    places: tuple[Path, ...]
    run: Path | None = None
    scene: Scene4D | None = None
    file: Path | None = None
    trouble: str = ""  # why the newest file could not be read
    _stamp: tuple[Any, ...] = field(default=(), repr=False)

    def refresh(self) -> bool:
        """Reads the file again where it has changed. Returns whether `scene` is another one now.

        A file that cannot be read leaves the old scene, and `trouble` says why.
        """
        found = next((path for path in self.places if path.is_file()), None)
        if found is None:
            return False
        status = os.stat(found)
        stamp = (found, status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.scene, self.file, self.trouble = files.read(found), found, ""
        except FourdgenError as error:
            self.trouble = error.message
            return False
        return True

    def progress(self) -> str:
        """What a run that is being trained has said last, such as `train: step 400 of 6500`; empty without a run."""
        if self.run is None:
            return ""
        try:
            with (self.run / LOG).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
                lines = log.read().splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the first line of the tail may be half of one
            if event.get("event") == "step":
                said = f"{event.get('stage')}: step {event.get('step')} of {event.get('total')}"
                return f"{said}  {figures(event)}".rstrip()
            if event.get("event") == "stage":
                return f"{event.get('stage')}: {event.get('state')}"
        return ""

    def capture(self) -> Capture | None:
        """The filmed frames, where a run folder still has them."""
        if self.scene is None:
            return None
        places: list[Path | str] = [*([self.run] if self.run is not None else []), self.scene.run_folder]
        return next(filter(None, (filmed_in(place) for place in places)), None)


def source_of(path: Path) -> Source:
    """A scene file, or a run folder. Raises FourdgenError where it is neither, or where its file cannot be read."""
    if path.is_dir():
        if not (path / RUN).is_file() and not stage_folders(path):
            raise FourdgenError(f"{path}: not a run folder of fourdgen", "give a scene.ply, or the folder of a run")
        sealed = [folder / "scene.ply" for folder in reversed(stage_folders(path))]
        published = _published(path)
        source = Source(path.name, ((published,) if published else ()) + tuple(sealed), path)
    else:
        if not path.exists():
            raise FourdgenError(f"{path}: no such file or folder", "give a scene.ply, or the folder of a run")
        source = Source(path.name, (path,))
    source.refresh()
    if source.scene is None and source.run is None:
        files.read(path)  # says what is wrong with it
    return source


def _published(run: Path) -> Path | None:
    """Where a run writes its scene.ply, at every checkpoint."""
    try:
        paths: Mapping[str, Any] = tomllib.loads((run / RUN).read_text(encoding="utf-8")).get("paths", {})
        return Path(str(paths["output"]))
    except (OSError, ValueError, KeyError):
        return None
