"""Web viewers that are not ours open scene.ply as it is and show its rest pose as we draw it."""

from __future__ import annotations

import functools
import http.server
import json
import math
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import rigid_inverse
from fourdgen.render import draw
from fourdgen.scene import files
from fourdgen.scene.files import extent
from tests.external.chromium import Browser, Page
from tests.external.chromium import address as place
from tests.external.conftest import HERE, missing
from tests.toy import toy_scene

SIZE = (400, 400)
FOV = 40.0


class Handler(http.server.SimpleHTTPRequestHandler):
    """tests/external, and the scene at /scene.ply."""

    def __init__(self, *arguments: object, scene: Path, **more: object) -> None:
        self.scene = scene
        super().__init__(*arguments, directory=str(HERE), **more)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        return str(self.scene) if path.split("?")[0] == "/scene.ply" else super().translate_path(path)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    files.write(tmp_path / "scene.ply", toy_scene())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, scene=tmp_path / "scene.ply"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def silhouettes(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one > 0.5, other > 0.5
    return float((a & b).sum() / (a | b).sum())


def test_spark_shows_the_same_rest_pose(browser: Browser, address: str) -> None:
    if not (HERE / "node_modules" / "@sparkjsdev" / "spark").is_dir():
        missing("Spark", "make test-external installs it")
    scene = toy_scene()
    center, radius = extent(scene.surfels)
    page = browser.page(SIZE)
    page.goto(f"{address}/spark.html")
    assert page.wait("window.show && window.count") == len(scene.surfels)
    assert not [url for url in page.requests if not url.startswith((address, "data:", f"blob:{address}"))]
    for azimuth, elevation in ((20.0, 10.0), (150.0, 40.0), (260.0, -20.0)):
        eye = center + orbit_eyes(torch.tensor([azimuth]), elevation, radius / math.sin(math.radians(FOV / 2)) * 1.1)
        camera = Cameras(look_at(eye, center), intrinsics(FOV, SIZE)[None], SIZE)
        pose = rigid_inverse(camera.cam_from_world)[0].flatten().tolist()
        shots = []
        for background in ("#ffffff", "#000000"):
            page.evaluate(f"show({json.dumps({'pose': pose, 'fov': FOV, 'background': background})})")
            shots.append(page.screenshot().astype(np.float64))
        alpha = 1 - (shots[0] - shots[1]).mean(-1) / 255  # over white less over black is what shines through
        ours = draw(scene.surfels, camera)
        overlap = silhouettes(alpha, ours.alpha[0].numpy())
        error = np.abs(shots[1] - ours.rgb[0].clamp(0, 1).numpy() * 255)[ours.alpha[0].numpy() > 0.9].mean()
        print(f"Spark, azimuth {azimuth:.0f}: silhouettes overlap {overlap:.3f}, colours differ by {error:.1f} of 255")
        assert overlap >= 0.9
        assert error < 12


def test_the_viewer_of_playcanvas_shows_the_same_rest_pose(browser: Browser, tmp_path: Path) -> None:
    """Its page is made by splat-transform; it turns splat files by half a turn about z, since they are y-down."""
    program = HERE / "node_modules" / ".bin" / "splat-transform"
    if not program.exists():
        missing("splat-transform", "make test-external installs it")
    scene = toy_scene()
    files.write(tmp_path / "scene.ply", scene)
    center, radius = extent(scene.surfels)
    eye = center + orbit_eyes(torch.tensor([30.0]), 15.0, radius / math.sin(math.radians(FOV / 2)) * 1.1)
    camera = Cameras(look_at(eye, center), intrinsics(FOV, SIZE)[None], SIZE)
    turned = [[-x, -y, z] for x, y, z in (eye[0].tolist(), center.tolist())]
    shots = []
    for name, shade in (("white", 1), ("black", 0)):
        view = {"fov": FOV, "position": turned[0], "target": turned[1], "startAnim": "none"}
        settings = {"camera": view, "background": {"color": [shade] * 3}, "animTracks": []}
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        made = [program, "-w", tmp_path / "scene.ply", "--viewer-settings", tmp_path / "settings.json"]
        subprocess.run([*made, tmp_path / f"{name}.html"], check=True, capture_output=True, timeout=120)
        page = browser.page(SIZE)
        page.goto(place(tmp_path / f"{name}.html", "?noui&noanim&webgl"))
        page.wait("document.readyState === 'complete'")
        shots.append(settled(page))
    alpha = 1 - (shots[0] - shots[1]).mean(-1) / 255
    overlap = silhouettes(alpha, draw(scene.surfels, camera).alpha[0].numpy())
    print(f"PlayCanvas: silhouettes overlap {overlap:.3f}")
    assert overlap >= 0.9


def settled(page: Page, seconds: float = 60) -> np.ndarray:
    """The picture once there is one and it has stopped changing."""
    end, last, same = time.monotonic() + seconds, page.screenshot(), 0
    while time.monotonic() < end:
        time.sleep(0.5)
        now = page.screenshot()
        same = same + 1 if np.array_equal(now, last) and now.std() > 10 else 0
        if same >= 3:
            return now.astype(np.float64)
        last = now
    raise TimeoutError(f"the picture never rests; the page said {page.complaints}")
