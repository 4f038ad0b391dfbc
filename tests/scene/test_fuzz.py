"""scene.ply under fuzzing, and what a reader may take of memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.scene import files
from fourdgen.scene.ply import read_ply
from tests.scene import fuzz


def test_mutants_are_read_or_refused(tmp_path: Path) -> None:
    seen = fuzz.run(2500, 7, tmp_path)
    assert seen["read"] + seen["refused"] == 2500
    assert seen["ply"] > 0.3 * 2500, seen  # most get past the first line
    assert min(seen["read"], seen["refused"]) > 250, seen


def test_every_seed_of_the_fuzzing_is_a_whole_file(tmp_path: Path) -> None:
    for data in fuzz.seeds(tmp_path):
        assert fuzz.outcome(data, tmp_path / "whole.ply") == "read"


@pytest.mark.parametrize("ends", [b"\r\n", b"\r", b"mixed"])
def test_line_ends_of_other_systems(tmp_path: Path, ends: bytes) -> None:
    scene = fuzz.small_scene()
    # The first number of the body begins with a byte that looks like a line's end: it must not be taken for one.
    means = scene.surfels.means.clone()
    means[0, 0] = torch.from_numpy(np.frombuffer(b"\n\x00\x00\x3f", "<f4").copy())[0]
    files.write(tmp_path / "scene.ply", replace(scene, surfels=replace(scene.surfels, means=means)))
    header, body = (tmp_path / "scene.ply").read_bytes().split(b"end_header\n", 1)
    lines = [*header.split(b"\n")[:-1], b"end_header"]
    if ends == b"mixed":
        joined = b"".join(line + (b"\r\n" if i % 2 else b"\n") for i, line in enumerate(lines[:-1])) + b"end_header\n"
    else:
        joined = ends.join([*lines, b""])
    (tmp_path / "other.ply").write_bytes(joined + body)
    assert torch.equal(files.read(tmp_path / "other.ply").surfels.means, means)


def test_a_comment_may_say_anything(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    files.write(path, fuzz.small_scene())
    odd = "comment the end_header\x0b of\u2028it\x1c all\n".encode()
    path.write_bytes(path.read_bytes().replace(b"comment made by", odd + b"comment made by"))
    assert len(files.read(path).surfels) == 5


def test_an_element_without_columns_takes_nothing(tmp_path: Path) -> None:
    for form in (b"ascii", b"binary_little_endian"):
        text = (
            b"ply\nformat "
            + form
            + b" 1.0\nelement ghost 999999999999\nelement vertex 1\nproperty int x\nend_header\n1 \n\n"
        )
        (tmp_path / "ghost.ply").write_bytes(text)
        assert len(read_ply(tmp_path / "ghost.ply").elements["vertex"]) == 1


MEASURE = """
import resource, sys
import fourdgen.scene.files as files, torch, numpy
from fourdgen.report import FourdgenError
from pathlib import Path
torch.set_num_threads(1)
files.read(Path(sys.argv[1]))  # whatever loads at first use
def peak():
    return int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) * 1024
before = peak()
try:
    files.read(Path(sys.argv[2]))
except FourdgenError as error:
    pass
print((peak() - before) / Path(sys.argv[2]).stat().st_size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["binary", "ascii", "cut"])
def test_reading_takes_no_more_than_three_times_the_file(tmp_path: Path, kind: str) -> None:
    """In a process of its own, because only the system knows what numpy and torch really take."""
    scene = fuzz.small_scene()
    files.write(tmp_path / "small.ply", scene)
    count = 20_000 if kind == "ascii" else 120_000
    many = scene.surfels[torch.arange(count) % 5]
    files.write(tmp_path / "large.ply", replace(scene, surfels=many))
    if kind == "ascii":
        elements = read_ply(tmp_path / "large.ply").elements
        header = (
            (tmp_path / "large.ply").read_bytes().split(b"end_header\n")[0].replace(b"binary_little_endian", b"ascii")
        )
        rows = [" ".join(map(str, row)) for part in elements.values() for row in part.tolist()]
        (tmp_path / "large.ply").write_bytes(header + b"end_header\n" + "\n".join(rows).encode() + b"\n")
    if kind == "cut":
        raw = (tmp_path / "large.ply").read_bytes().replace(b"element vertex 120000", b"element vertex 999999", 1)
        (tmp_path / "large.ply").write_bytes(raw)
    command = [sys.executable, "-c", MEASURE, tmp_path / "small.ply", tmp_path / "large.ply"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < (0.2 if kind == "cut" else 3), done.stdout
