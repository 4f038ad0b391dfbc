"""Files that are whole or not there, and clear words for a disk that is full or refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourdgen.report import FourdgenError, Reporter


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read, which means the same to every caller."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its name when the block ends well: the file is either the old one
    or the whole new one, whenever the process dies."""
    part = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")  # writers like to see the extension
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file, the whole of it or nothing (see `whole`)."""
    with whole(path) as part:
        part.write_bytes(data)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes an object as JSON, the whole of it or nothing."""
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def check_writable(folder: Path) -> None:
    """Raises FourdgenError when nothing can be written in `folder`, or where it would be made; makes nothing."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        raise clear_error(error, [folder]) or _denied(error, folder) from error


def make_folder(folder: Path, report: Reporter) -> None:
    """Makes a folder, and those above it, where it is not there, and says so: a name may have been mistyped.

    Raises FourdgenError where it cannot be made.
    """
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise clear_error(error, [folder]) or _denied(error, folder) from error
    report.emit("note", text=f"made the folder {folder}", folder=str(folder))


_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR}


def clear_error(error: BaseException, folders: Sequence[Path]) -> FourdgenError | None:
    """The sentence for a full disk or a write that was refused below `folders`, if that is what `error` is.

    Libraries wrap the system's error in types of their own, so the wording and the free space are looked at as well.
    """
    code = error.errno if isinstance(error, OSError) else None
    where = _folder_of(error, folders)
    # Free space only speaks where the error has no code of its own: some file systems always report none.
    full = min(map(_free_bytes, folders)) < 1 << 16 if code is None else code in _FULL
    if full or os.strerror(errno.ENOSPC) in str(error):
        place = where or min(folders, key=_free_bytes)
        return FourdgenError(
            f"the disk is full: {place}", "make room and run the same command again; what is finished is kept"
        )
    if code in _DENIED and where:
        return _denied(error, where)
    return None


def _denied(error: BaseException, folder: Path) -> FourdgenError:
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    # Folders that the kernel makes up, such as /proc, say that a new file is not there.
    if folder.is_dir() and getattr(error, "errno", None) == errno.ENOENT:
        reason = "the system takes no files there"
    return FourdgenError(f"cannot write in {folder}: {reason}", "choose another folder")


def _folder_of(error: BaseException, folders: Sequence[Path]) -> Path | None:
    """Which of the folders the error's file lies in: a refusal elsewhere is no matter of ours."""
    name = getattr(error, "filename", None)
    if isinstance(name, str | Path):
        for folder in folders:
            if Path(name).absolute().is_relative_to(folder):
                return folder
    return None


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def clear_errors(*folders: Path) -> Iterator[None]:
    """Turns a full disk, or a write that was refused below `folders`, into one clear FourdgenError."""
    try:
        yield
    except FourdgenError:
        raise
    except Exception as error:
        clear = clear_error(error, folders)
        if clear is None:
            raise
        raise clear from error
