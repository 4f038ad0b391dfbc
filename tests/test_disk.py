"""Writing: what is refused is said clearly, and nothing is made by asking."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourdgen import disk
from fourdgen.report import FourdgenError


def test_check_writable_makes_nothing_and_sees_refusals(tmp_path: Path) -> None:
    disk.check_writable(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(FourdgenError, match=r"cannot write in .*: not a directory"):
        disk.check_writable(tmp_path / "file" / "folder")


def test_an_error_elsewhere_is_not_called_a_refused_write(tmp_path: Path) -> None:
    ours, other = tmp_path / "run", tmp_path / "other"
    assert disk.clear_error(PermissionError(13, "Permission denied", str(other / "x")), [ours]) is None
    refused = disk.clear_error(PermissionError(13, "Permission denied", str(ours / "x")), [ours])
    assert refused is not None
    assert refused.message == f"cannot write in {ours}: permission denied"
    nowhere = disk.clear_error(FileNotFoundError(2, "No such file or directory", "/proc/x"), [Path("/proc")])
    assert nowhere is not None and "cannot write in /proc" in nowhere.message  # /proc always reports no free space
    wrapped = disk.clear_error(RuntimeError("write failed: No space left on device"), [ours])
    assert wrapped is not None
    assert wrapped.message.startswith("the disk is full")
