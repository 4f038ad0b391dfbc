"""Mutated scene files by the million: each either reads and can be warped, or is refused in a sentence.

    python -m tests.scene.fuzz --count 1000000 [--seed 0]

The short run of `make test` is in test_fuzz.py.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fourdgen.geometry.transforms import Sim3
from fourdgen.report import FourdgenError
from fourdgen.scene import files
from fourdgen.scene.formats.splats import write_3dgs
from fourdgen.scene.ply import read_ply
from fourdgen.scene.scene4d import Scene4D
from tests.toy import toy_scene

NUMBERS = (
    b"-1", b"0", b"1", b"3", b"2147483648", b"-2147483649", b"18446744073709551616", b"9" * 400, b"1e9", b"nan", b"",
)  # fmt: skip
TYPES = (
    b"char", b"uchar", b"short", b"ushort", b"int", b"uint", b"float", b"double", b"float64", b"list uchar int", b"",
)  # fmt: skip
FORMATS = (b"ascii 1.0", b"binary_little_endian 1.0", b"binary_big_endian 1.0", b"binary 2.0", b"")
LINES = (
    b"property float x", b"property double more", b"property list uchar int i", b"element face 2", b"element vertex 3",
    b"comment \xff\xe2\x80\xa8end_header", b"obj_info 3", b"end_header", b"\x00", b"property int " + b"y" * 3000,
)  # fmt: skip
BITS = (0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x00000001, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF, 0)


def small_scene() -> Scene4D:
    """A few surfels, two clips, everything that a file can hold."""
    made = toy_scene(harmonics=4)
    surfels = made.surfels[torch.arange(0, 900, 180)]
    clips = {}
    for name, clip in made.clips.items():
        cameras = clip.cameras[torch.arange(3)]
        parts = {key: getattr(clip, key)[:3] for key in ("seconds", "frame_ids")}
        clips[name] = replace(clip, cameras=cameras, **parts)
    motion = replace(
        made.motion,
        seconds={name: times[:4] for name, times in made.motion.seconds.items()},
        dual_quats={name: poses[:4] for name, poses in made.motion.dual_quats.items()},
    )
    world = Sim3(2.0, torch.eye(3).double(), torch.ones(3).double())
    return Scene4D(surfels, motion, clips, "a", world, "/run", {"poses": "given"})


def seeds(folder: Path) -> list[bytes]:
    """Whole files of every kind: ours in three byte orders and line ends, and a static 3DGS file."""
    path = folder / "seed.ply"
    files.write(path, small_scene())
    little = path.read_bytes()
    ply = read_ply(path)
    header = little.split(b"end_header\n", 1)[0] + b"end_header\n"
    big = b"".join(part.astype(part.dtype.newbyteorder(">")).tobytes() for part in ply.elements.values())
    rows = [" ".join(repr(value.item()) for value in row) for part in ply.elements.values() for row in part]
    text = header.replace(b"binary_little_endian", b"ascii") + "\n".join(rows).encode() + b"\n"
    windows = header.replace(b"\n", b"\r\n") + little[len(header) :]
    old = header.replace(b"\n", b"\r") + little[len(header) :]
    write_3dgs(path, small_scene().surfels)
    static = path.read_bytes()
    return [little, header.replace(b"little", b"big") + big, text, windows, old, text.replace(b"\n", b"\r\n"), static]


def mutant(whole: list[bytes], random: np.random.Generator) -> bytes:
    """One of the files, changed in one way, or some more."""
    data = whole[random.integers(len(whole))]
    for _ in range(1 + min(int(random.geometric(0.7)) - 1, 4)):
        data = WAYS[random.integers(len(WAYS))](data, random)
        if len(data) < 8:
            break
    return data


def _cut(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(len(data))]


def _flip(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in random.integers(len(data), size=random.integers(1, 5)):
        changed[at] = random.integers(256)
    return bytes(changed)


def _shift(data: bytes, random: np.random.Generator) -> bytes:
    begin, length = random.integers(len(data)), random.integers(1, 200)
    part = data[begin : begin + length]
    return data[:begin] + (b"" if random.random() < 0.5 else part + part) + data[begin + length :]


def _bits(data: bytes, random: np.random.Generator) -> bytes:
    """Some number of the body becomes a special one."""
    start = data.find(b"end_header") + 11
    if len(data) < start + 8:
        return data
    at = start + 4 * int(random.integers((len(data) - start) // 4))
    word = int(BITS[random.integers(len(BITS))]).to_bytes(4, "little" if random.random() < 0.8 else "big")
    return data[:at] + word + data[at + 4 :]


def _header(data: bytes, random: np.random.Generator) -> bytes:
    """A line of the header says something else."""
    end = data.find(b"end_header")
    if end < 0:
        return data
    lines = data[:end].split(b"\n")
    at = int(random.integers(1, max(len(lines), 2))) if len(lines) > 1 else 0
    words = lines[at].split(b" ")
    kind = random.integers(5)
    if words[0] == b"element" and kind < 3:
        words[-1] = NUMBERS[random.integers(len(NUMBERS))]
    elif words[0] == b"property" and kind < 3 and len(words) > 1:
        words[1] = TYPES[random.integers(len(TYPES))]
    elif words[0] == b"format" and kind < 4:
        words = [b"format", FORMATS[random.integers(len(FORMATS))]]
    elif kind == 3:
        words = [LINES[random.integers(len(LINES))], b"\n", *words]
    else:
        words = words[:-1]
    lines[at] = b" ".join(words)
    return b"\n".join(lines) + data[end:]


def _count(data: bytes, random: np.random.Generator) -> bytes:
    """A count of the header is off by a little: everything after it moves."""
    at = [i for i in range(len(data)) if data.startswith(b"element ", i)] if len(data) < 20000 else []
    if not at:
        return data
    line = data[at[random.integers(len(at))] :].split(b"\n", 1)[0]
    words = line.split(b" ")
    if len(words) < 3 or not words[2].strip().isdigit() or len(words[2]) > 9:
        return data
    words[2] = str(int(words[2]) + int(random.integers(-2, 3))).encode()
    return data.replace(line, b" ".join(words), 1)


def _text(data: bytes, random: np.random.Generator) -> bytes:
    """The JSON text inside becomes other JSON."""
    pairs = [
        (b'"a"', b"[1]"), (b'"a"', b'"b"'), (b"[1, 0]", b"[9, 0]"), (b"[1, 0]", b'"1.0"'), (b"true", b"null"),
        (b"true", b"false"), (b"{", b"["), (b'"clips"', b'"clubs"'),
    ]  # fmt: skip
    old, new = pairs[random.integers(len(pairs))]
    return data.replace(old, new.ljust(len(old))[: max(len(old), 1)], 1)


WAYS = (_cut, _flip, _flip, _shift, _bits, _bits, _header, _header, _header, _count, _text)


def outcome(data: bytes, path: Path) -> str:
    """read or refused; whatever else happens is an exception that is not FourdgenError. The place must be in memory."""
    path.write_bytes(data)
    try:
        scene = files.read(path)
    except FourdgenError as error:
        return "refused" if error.message else "refused without a word"
    assert len(scene.at(seconds=0.1)) == len(scene.surfels) > 0
    return "read"


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """What became of so many mutants; "ply" counts those whose first line is a PLY file's."""
    random = np.random.default_rng(seed)
    whole = seeds(folder)
    seen: Counter[str] = Counter()
    for number in range(count):
        data = mutant(whole, random)
        seen["ply"] += data.startswith((b"ply\n", b"ply\r"))
        try:
            seen[outcome(data, folder / "mutant.ply")] += 1
        except Exception as error:
            kept = folder / f"crash-{seed}-{number}.ply"
            kept.write_bytes(data)
            raise AssertionError(f"mutant {number} of seed {seed}: {error!r}; it is kept in {kept}") from error
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    place = tempfile.mkdtemp(dir=memory if memory.is_dir() else None)
    begun = time.process_time()
    seen: Counter[str] = Counter()
    step = 20_000
    for first in range(0, asked.count, step):
        seen += run(min(step, asked.count - first), asked.seed + first // step, Path(place))
        done = min(first + step, asked.count)
        print(
            f"{done} files, {dict(seen)}, {time.process_time() - begun:.0f} CPU-seconds, pid {os.getpid()}", flush=True
        )


if __name__ == "__main__":
    main()
