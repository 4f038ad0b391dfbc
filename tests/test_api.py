"""The Python API of the README, and that importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fourdgen
from fourdgen.scene import files
from tests.toy import toy_scene


def test_load_at_draw(tmp_path: Path) -> None:
    files.write(tmp_path / "scene.ply", toy_scene())
    scene = fourdgen.load(tmp_path / "scene.ply")
    surfels = scene.at("a", seconds=0.5)
    out = fourdgen.draw(surfels, scene.clips["a"].cameras[:2])
    assert out.rgb.shape == (2, 96, 96, 3)
    assert float(out.alpha.max()) > 0.9


def test_drawing_from_the_file_equals_drawing_what_was_written(tmp_path: Path) -> None:
    scene = toy_scene(harmonics=4)
    fourdgen.save(tmp_path / "scene.ply", scene)
    read = fourdgen.load(str(tmp_path / "scene.ply"))
    for name, clip in scene.clips.items():
        for seconds in (0.0, 0.13, 0.31):
            written, loaded = (fourdgen.draw(s.at(name, seconds), clip.cameras[1]) for s in (scene, read))
            assert torch.equal(written.rgb, loaded.rgb)
            assert torch.equal(written.depth, loaded.depth)


def test_every_public_name_is_there() -> None:
    for name in fourdgen.__all__:
        assert getattr(fourdgen, name) is not None
    assert set(fourdgen.__all__) == set(dir(fourdgen))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fourdgen.nothing  # noqa: B018 - looking it up is the test


def test_import_is_fast_and_without_torch() -> None:
    code = (
        "import time; t = time.perf_counter(); import fourdgen; t = time.perf_counter() - t; "
        "import sys; print(t, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_there = run.stdout.split()
    assert torch_there == "False"
    assert float(seconds) < 0.3
