"""Files and folders that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fourdgen.disk import whole
from fourdgen.report import FourdgenError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the name when the block ends well, and goes when it does not.

    Raises FourdgenError where the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            yield part
    except OSError as error:
        raise _unwritable(path, error) from None


@contextlib.contextmanager
def whole_folder(path: Path, ours: str) -> Iterator[Path]:
    """The same for a folder. An older one is replaced if every name in it matches `ours` (a regular expression): a
    folder with anything else in it is somebody's. Raises FourdgenError for that, and where it cannot be written."""
    if path.exists() and (not path.is_dir() or not all(re.fullmatch(ours, item.name) for item in path.iterdir())):
        kind = "holds other files, too" if path.is_dir() else "is a file"
        raise FourdgenError(f"{path} {kind}: it will not be replaced", "name a new or an empty folder")
    part, old = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in ("", ".old"))
    try:
        part.mkdir(parents=True)
        yield part
        if path.exists():
            path.rename(old)
        part.rename(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> FourdgenError:
    return FourdgenError(
        f"{path} cannot be written: {error.strerror or error}", "free some space, or choose another place"
    )
