"""PLY files: headers, scalar elements, atomic writing. What the columns mean is said in vertex.py and files.py.

Written from the format's public description (Greg Turk, "The PLY Polygon File Format", 1994).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourdgen.report import FourdgenError, absent
from fourdgen.scene.whole import whole_file

# Every name that the format knows for a scalar type.
_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_NAMES = {"f4": "float", "i4": "int"}  # what we write
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_HEADER_LIMIT = 1 << 20  # bytes: a header without an end is not a header
_MOST_ELEMENTS, _MOST_COLUMNS = 1000, 4000  # of a file that means what it says
_BLOCK = 1 << 18  # bytes of text taken apart at a time
_AGAIN = "copy it again, or write it again"


@dataclass(frozen=True)
class Ply:
    """A PLY file: per element a structured array [rows], in this machine's byte order."""

    elements: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    columns: tuple[tuple[str, str], ...]  # name and numpy type without byte order
    has_lists: bool


def table(names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Structured array [n] of a matrix [n c] of float32 or int32, one column per name."""
    kind = "<f4" if values.dtype.kind == "f" else "<i4"
    matrix = np.ascontiguousarray(values, dtype=kind)
    return matrix.view([(name, kind) for name in names])[:, 0]


def matrix(element: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Columns of a structured array as a matrix [n c] of float64, float32 or int32, whichever holds them all."""
    with np.errstate(invalid="ignore"):  # a signalling NaN stays a NaN, and whoever uses it looks for those
        return np.stack([element[name] for name in names], axis=1)


def write_ply(path: Path, elements: Mapping[str, np.ndarray], comments: Sequence[str] = ()) -> None:
    """Writes little-endian binary; the file appears under its name only when it is complete.

    Raises FourdgenError where the folder cannot be written or the disk is full.
    """
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {comment}" for comment in comments)]
    for name, values in elements.items():
        lines.append(f"element {name} {len(values)}")
        assert values.dtype.names is not None
        lines += [f"property {_NAMES[values.dtype[column].str[1:]]} {column}" for column in values.dtype.names]
    header = "\n".join([*lines, "end_header", ""]).encode("ascii")
    with whole_file(path) as part, part.open("wb") as file:
        file.write(header)
        for values in elements.values():
            file.write(values.tobytes())


def read_ply(path: Path) -> Ply:
    """Reads every element up to the first one with list properties (faces); that one and all after it are left out.

    Raises FourdgenError for a file that is absent, no PLY, cut off, or that says impossible things about itself.
    """
    order, _, declared, start, length = _look(path)
    elements: dict[str, np.ndarray] = {}
    words = _Words(path, start)
    offset = start
    for element in declared:
        if element.has_lists:
            break
        # The length is compared before anything is allocated: a count is only a claim.
        if order == "":
            values = element.count * len(element.columns)
            _fits(path, element, max(2 * values - 1, 0), length - words.position, "bytes at least")
            elements[element.name] = _from_words(path, element, words)
        elif element.columns:
            dtype = _dtype(element, order)
            size = _fits(path, element, element.count * dtype.itemsize, length - offset, "bytes")
            raw = np.fromfile(path, dtype=dtype, count=element.count, offset=offset)
            elements[element.name] = raw.astype(dtype.newbyteorder("="), copy=False)
            offset += size
    return Ply(elements)


def _dtype(element: _Element, order: str) -> np.dtype:
    return np.dtype([(name, order + kind) for name, kind in element.columns])


def _fits(path: Path, element: _Element, size: int, there: int, unit: str) -> int:
    """`size`, if the file still holds as much."""
    if size > there:
        raise FourdgenError(f"{path} is cut off: its {element.name} lacks {size - there} {unit}", _AGAIN)
    return size


def check(path: Path | str) -> None:
    """Raises FourdgenError for a file that is absent, no PLY, or cut off. Reads the header only."""
    if is_zip(Path(path)):
        return  # a compressed scene: its reader says what is wrong with it
    order, _, declared, start, length = _look(Path(path))
    offset = start
    for element in declared:
        if order == "" or element.has_lists:  # text has no fixed length, and lists neither
            return
        if element.columns:
            size = element.count * _dtype(element, order).itemsize
            offset += _fits(Path(path), element, size, length - offset, "bytes")


def is_zip(path: Path) -> bool:
    """Whether a file begins as a ZIP does: a compressed asset is one."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def comment_of(path: Path | str, start: str) -> str:
    """The rest of the first comment line that starts with `start`; empty where there is none. Raises as `check`."""
    if is_zip(Path(path)):
        return ""
    for comment in _look(Path(path))[1]:
        if comment.startswith(start):
            return comment[len(start) :]
    return ""


def _look(path: Path) -> tuple[str, tuple[str, ...], list[_Element], int, int]:
    """(byte order, comments, elements, where the data start, length of the file)."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_LIMIT)
        length = path.stat().st_size
    except FileNotFoundError:
        raise absent(path) from None
    except OSError as error:
        if path.is_dir():
            raise FourdgenError(
                f"{path}: a folder, where a scene.ply is wanted",
                "give the file; of a run's folder `fourdgen status` tells",
            ) from None
        reason = (error.strerror or str(error)).lower()
        raise FourdgenError(f"{path}: cannot be read: {reason}", "check the path") from None
    header, start = _split_header(path, head)
    return *_parse_header(path, header), start, length


def _split_header(path: Path, head: bytes) -> tuple[list[str], int]:
    """The header's lines, whichever way they end, and where the data start."""
    if not head.startswith((b"ply\n", b"ply\r")):
        raise FourdgenError(f"{path} is not a PLY file", "give a scene.ply, or a .ply of Gaussian splats")
    end = re.search(rb"[\r\n][ \t]*end_header[ \t]*(\r\n|\n|\r)", head)
    if end is None:
        raise FourdgenError(f"{path} is cut off: its header has no end", _AGAIN)
    begin = end.end()
    if end[1] == b"\r\n" and not head.startswith(b"ply\r\n") and b"\r\n" not in head[: end.start() + 2]:
        begin -= 1  # the lines end with \r alone, and this \n is the first byte of the data
    return re.split("\r\n|\n|\r", head[: end.start()].decode("utf-8", "replace")), begin


def _parse_header(path: Path, lines: list[str]) -> tuple[str, tuple[str, ...], list[_Element]]:
    order: str | None = None
    comments: list[str] = []
    names: dict[str, int] = {}
    columns: list[dict[str, str]] = []
    lists: list[bool] = []
    for line in lines[1:]:
        words = line.split()
        if not words or words[0] == "obj_info":
            continue
        try:
            if words[0] == "comment":
                comments.append(line[len("comment ") :])
            elif words[0] == "format":
                order = _ORDERS[words[1]]
            elif words[0] == "element":
                count = int(words[2])
                if count < 0 or words[1] in names or len(names) == _MOST_ELEMENTS:
                    raise ValueError
                names[words[1]] = count
                columns.append({})
                lists.append(False)
            elif words[0] == "property" and words[1] == "list":
                lists[-1] = True
            elif words[0] == "property":
                kind, name = _TYPES[words[1]], words[2]
                if name in columns[-1] or len(columns[-1]) == _MOST_COLUMNS:
                    raise ValueError
                columns[-1][name] = kind
            else:
                raise ValueError
        except (KeyError, IndexError, ValueError):
            raise FourdgenError(f"{path} has a damaged header: {line[:80]!r}", _AGAIN) from None
    if order is None:
        raise FourdgenError(f"{path} has a damaged header: it names no format", _AGAIN)
    parts = zip(names.items(), columns, lists)
    return order, tuple(comments), [_Element(*name, tuple(kinds.items()), has) for name, kinds, has in parts]


class _Words:
    """The words of a text file, block by block: a list of them all would be ten times the file's size."""

    def __init__(self, path: Path, start: int) -> None:
        self.position = start  # in bytes: what has been read and not taken comes after it
        self._path, self._read_to = path, start
        self._words: list[bytes] = []
        self._half = b""  # a word that the block's end may have cut

    def take(self, most: int) -> list[bytes]:
        """The next words, at most so many; none at the end of the file."""
        while not self._words:
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                block = file.read(_BLOCK)
            self._read_to += len(block)
            whole = self._half + block
            self._words = whole.split()
            self._half = b""
            if block and self._words and not whole[-1:].isspace() and len(self._words[-1]) < 1000:
                self._half = self._words.pop()
            if not block:
                break
        taken, self._words = self._words[:most], self._words[most:]
        self.position = self._read_to - len(self._half) - sum(map(len, self._words))
        return taken


def _from_words(path: Path, element: _Element, words: _Words) -> np.ndarray:
    """An ASCII element. Integers are read as integers: a double would do for int32, but not say what is wrong."""
    values = np.empty(element.count if element.columns else 0, dtype=_dtype(element, "="))
    width = len(element.columns)
    kept: list[bytes] = []
    done = 0
    while width and done < element.count:
        taken = words.take((element.count - done) * width - len(kept))
        if not taken:
            lacks = (element.count - done) * width - len(kept)
            raise FourdgenError(f"{path} is cut off: its {element.name} lacks {lacks} values", _AGAIN)
        kept += taken
        rows = len(kept) // width
        try:
            for i, (name, kind) in enumerate(element.columns):
                convert = float if kind[0] == "f" else int
                column = [convert(word) for word in kept[i : rows * width : width]]
                with np.errstate(over="ignore"):
                    values[name][done : done + rows] = np.array(column, dtype=kind)
        except (ValueError, OverflowError):
            raise FourdgenError(
                f"{path} is damaged: its {element.name} holds something that is no number", _AGAIN
            ) from None
        kept = kept[rows * width :]
        done += rows
    return values
