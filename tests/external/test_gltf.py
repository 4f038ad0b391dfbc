"""glTF files in the hands of the Khronos validator, trimesh and three.js in headless Chromium."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import trimesh

from fourdgen.geometry.camera import Cameras
from fourdgen.playback.exports import export
from fourdgen.render import draw
from fourdgen.scene.adapt import Adapt, adapted
from fourdgen.scene.scene4d import Scene4D
from tests.external.chromium import Browser, Page
from tests.external.conftest import HERE, missing
from tests.toy import toy_scene

VALIDATE = """
const validator = require('gltf-validator');
const bytes = new Uint8Array(require('fs').readFileSync(process.argv[1]));
validator.validateBytes(bytes, { maxIssues: 20 }).then((report) => console.log(JSON.stringify(report)));
"""


@pytest.fixture(scope="module")
def scene() -> Scene4D:
    return toy_scene()


@pytest.fixture(scope="module")
def glb(scene: Scene4D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gltf") / "toy.glb"
    export(scene, path)
    return path


def complaints(path: Path) -> dict[str, int]:
    """What the Khronos validator says."""
    if not (HERE / "node_modules" / "gltf-validator").is_dir():
        missing("the Khronos glTF validator", "make test-external installs it")
    done = subprocess.run(
        ["node", "-e", VALIDATE, path.resolve()], cwd=HERE, capture_output=True, text=True, check=True
    )
    issues = json.loads(done.stdout)["issues"]
    assert issues["numErrors"] == 0, issues["messages"]
    return issues


def test_the_validator_finds_no_error(glb: Path) -> None:
    issues = complaints(glb)
    assert issues["numWarnings"] == 0, issues["messages"]


def test_the_validator_finds_one_where_there_is_one(glb: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.glb").write_bytes(glb.read_bytes().replace(b'"VEC3"', b'"VEC2"', 1))
    with pytest.raises(AssertionError):
        complaints(tmp_path / "bad.glb")


def test_trimesh_loads_it(glb: Path) -> None:
    mesh = trimesh.load(glb, force="mesh")
    assert len(mesh.faces) > 1000
    assert mesh.vertices[:, 1].max() > 0.5  # y is up: the head is there


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(glb: Path) -> Iterator[str]:
    """An address of this machine under which the page and the file can be had."""
    if not (HERE / "node_modules" / "three").is_dir():
        missing("three.js", "make test-external installs it")

    class Both(Quiet):
        def translate_path(self, path: str) -> str:
            return str(glb) if path == "/toy.glb" else super().translate_path(path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Both, directory=str(HERE)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/three.html?file=/toy.glb"
    server.shutdown()


@pytest.fixture(scope="module")
def page(browser: Browser, served: str) -> Page:
    page = browser.page()
    page.goto(served)
    page.wait("window.clips !== undefined")
    return page


def picture(page: Page, clip: str, seconds: float, camera: Cameras) -> np.ndarray:
    """RGBA bytes of what three.js draws for one of our cameras."""
    w, h = camera.size
    K, near, far = camera.K[0].double().numpy(), 0.01, 100.0
    projection = np.array([
        [2 * K[0, 0] / w, 0, 1 - 2 * K[0, 2] / w, 0], [0, 2 * K[1, 1] / h, 2 * K[1, 2] / h - 1, 0],
        [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)], [0, 0, -1, 0],
    ])  # fmt: skip
    view = np.diag([1.0, -1.0, -1.0, 1.0]) @ camera.cam_from_world[0].double().numpy()
    arguments = [clip, seconds, projection.T.reshape(-1).tolist(), view.T.reshape(-1).tolist(), [w, h]]
    data = page.evaluate(f"window.picture(...{json.dumps(arguments)})")
    raw = cv2.imdecode(np.frombuffer(base64.b64decode(data.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)
    return np.ascontiguousarray(raw[..., [2, 1, 0, 3]])


def most_moved(scene: Scene4D, clip: str, count: int = 4) -> list[int]:
    """The frames of a clip that lie farthest from the rest pose."""
    times = scene.clips[clip].seconds.tolist()
    moved = [float((scene.at(clip, t).means - scene.surfels.means).norm(dim=1).mean()) for t in times]
    return [int(i) for i in np.argsort(moved)[-count:]]


def compared(page: Page, scene: Scene4D, clip: str, frame: int) -> tuple[float, float]:
    """IoU of the silhouettes of three.js and of our renderer, and the mean difference of colours where both are."""
    there = adapted(scene, Adapt(), "y")
    camera = there.clips[clip].cameras[frame]
    camera = camera.resized((camera.size[0] * 2, camera.size[1] * 2))
    seconds = float(there.clips[clip].seconds[frame])
    shown = picture(page, clip, seconds - float(there.clips[clip].seconds[0]), camera)
    out = draw(there.at(clip, seconds), camera)
    one, other = shown[..., 3] > 127, out.alpha[0].numpy() > 0.5
    both = one & other
    wanted = (out.rgb[0] / out.alpha[0, ..., None].clamp_min(1e-6)).numpy()
    difference = np.abs(shown[..., :3][both] / 255 - wanted[both]).mean()
    return float(both.sum() / (one | other).sum()), float(difference)


@pytest.mark.parametrize("clip", ["a", "b"])
def test_three_plays_it_with_our_silhouettes_and_colours(page: Page, scene: Scene4D, clip: str) -> None:
    assert page.evaluate("window.clips") == ["a", "b"]
    for frame in most_moved(scene, clip):
        overlap, difference = compared(page, scene, clip, frame)
        print(f"clip {clip} frame {frame}: IoU {overlap:.3f}, colours differ by {difference:.3f}")
        assert overlap >= 0.9
        assert difference < 0.08  # stripes of the toy are finer than the mesh; a wrong colour space is off by 0.15
