"""The live viewer, started as a user starts it and driven in headless Chromium."""

from __future__ import annotations

import importlib.util
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fourdgen.data.video import read_video
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.playback.channels import Look, layer
from fourdgen.playback.shots import Shot
from fourdgen.render import pick
from fourdgen.scene import files
from fourdgen.scene.showing import first_view
from tests.external.chromium import Browser, Page, psnr
from tests.toy import toy_scene

SIZE = (900, 600)
LEFT = 560  # pixels: what is right of them is the panel


def default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores Ctrl-C, and so would its children


class Viewer:
    """`fourdgen view` as a process; `address` is where it says it is."""

    def __init__(self, target: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fourdgen.cli", "view", str(target), "--json", "--device", "cpu"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default_interrupt,
        )  # fmt: skip
        lines: queue.Queue[str] = queue.Queue()
        assert self.process.stdout is not None
        stdout = self.process.stdout
        threading.Thread(target=lambda: [lines.put(line) for line in stdout], daemon=True).start()
        self.address = ""
        while not self.address:
            self.address = json.loads(lines.get(timeout=120)).get("address", "")

    def stop(self) -> tuple[int, str]:
        """Ctrl-C. Returns the exit code and what stderr got."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


@pytest.fixture
def scene_file(tmp_path: Path) -> Path:
    if importlib.util.find_spec("viser") is None:
        missing("viser", "make test-external installs it")
    files.write(tmp_path / "toy.ply", toy_scene())
    return tmp_path / "toy.ply"


@pytest.fixture
def viewer(scene_file: Path) -> Iterator[Viewer]:
    running = Viewer(scene_file)
    yield running
    running.process.kill()
    running.process.wait()


def opened(browser: Browser, address: str) -> Page:
    page = browser.page(SIZE)
    page.goto(address)
    page.wait("!!document.querySelector('canvas') && document.body.innerText.includes('surfels')")
    note = "document.querySelector('.mantine-Notification-closeButton')"  # it says that the GPU is a software one
    page.wait(f"!!{note}")
    page.click(*middle_of(page, note))
    page.wait(f"!{note}")
    return page


def settled(page: Page, unlike: np.ndarray | None = None, seconds: float = 60) -> np.ndarray:
    """The picture once it has stopped changing (and is not `unlike`), without the panel."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        time.sleep(0.7)
        now = page.screenshot()[:, :LEFT]
        if last is not None and np.array_equal(now, last) and (unlike is None or not np.array_equal(now, unlike)):
            return now
        last = now
    raise TimeoutError("the picture never rests, or does not change")


def middle_of(page: Page, element: str) -> tuple[float, float]:
    """Of an element that a script finds, in pixels."""
    x, y, width, height = box_of(page, element)
    return x + width / 2, y + height / 2


def box_of(page: Page, element: str) -> list[float]:
    return page.evaluate(f"(r => [r.x, r.y, r.width, r.height])(({element}).getBoundingClientRect())")


def labelled(page: Page, label: str) -> tuple[float, float]:
    """Where the input of a label is."""
    found = f"[...document.querySelectorAll('label')].find(l => l.textContent.trim() === {label!r})"
    up = "while (!e.querySelector('input')) e = e.parentElement; return e.querySelector('input');"
    return middle_of(page, f"(e => {{ {up} }})({found})")


def button(page: Page, label: str) -> tuple[float, float]:
    return middle_of(page, f"[...document.querySelectorAll('button')].find(b => b.textContent.trim() === {label!r})")


def downloaded(folder: Path, pattern: str, seconds: float) -> Path:
    """The file that a browser has saved, once it is whole."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := list(folder.glob(pattern)):
            return found[0]
        time.sleep(0.1)
    raise TimeoutError(f"no {pattern} came in {seconds:.0f} s")


def seek(page: Page, share: float) -> None:
    """Clicks at a share of the timeline."""
    left, top, width, height = box_of(page, "document.querySelector('.mantine-Slider-track')")
    page.click(left + share * width, top + height / 2)


def test_it_shows_the_asset_and_follows_the_timeline(browser: Browser, viewer: Viewer, tmp_path: Path) -> None:
    page = opened(browser, viewer.address)
    page.click(*labelled(page, "play"))
    seek(page, 0.02)
    first = settled(page)
    assert (first.min(-1) < 200).mean() > 0.03  # it is not empty
    seek(page, 0.3)
    later = settled(page, unlike=first)
    assert psnr(first, later) < 30
    page.click(*labelled(page, "filmed cameras"))
    with_cameras = settled(page, unlike=later)
    assert 0.0005 < (np.abs(with_cameras.astype(int) - later).max(-1) > 60).mean() < 0.2
    page.click(*labelled(page, "filmed cameras"))
    assert psnr(settled(page, unlike=with_cameras), later) > 40
    # The screenshot is our renderer's picture of what is seen.
    browser.call("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "got")})
    page.click(*button(page, "screenshot"))
    file = downloaded(tmp_path / "got", "*.png", 30)
    saved = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]]
    scene = toy_scene()
    view, seconds = first_view(scene, "a"), float(file.stem.split("_")[-1].removesuffix("s"))
    target = torch.tensor(view["target"])
    eye = orbit_eyes(torch.tensor([view["az"]]), view["el"], view["dist"]) + target
    height, width = saved.shape[:2]
    K = intrinsics(view["fov"], (height, height))[None].clone()  # viser's field of view is the vertical one
    K[0, 0, 2], K[0, 1, 2] = width / 2, height / 2
    shot = Shot(Cameras(look_at(eye, target), K, (width, height)), "a", seconds)
    drawn = layer(scene, shot, Look("rgb"), pick("cpu"))
    mask, wanted = saved[..., 3] > 127, drawn.alpha.numpy() > 0.5
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.97
    # And the window shows that picture.
    white = saved[..., :3] * (saved[..., 3:] / 255) + 255.0 * (1 - saved[..., 3:] / 255)
    assert psnr(later, white[:, :LEFT].round().astype(np.uint8)) > 30  # it came as a JPEG
    page.click(*button(page, "orbit video"))
    video = downloaded(tmp_path / "got", "*.mp4", 400)  # seconds enough for a machine that is busy with other things
    pictures = [frame.picture.astype(int) for frame in read_video(video, longest=160)]
    assert len(pictures) > 60
    assert np.abs(pictures[0] - pictures[len(pictures) // 2])[..., :3].max() > 50
    assert not [url for url in page.requests if not url.startswith((viewer.address, "data:", f"blob:{viewer.address}"))]
    code, said = viewer.stop()
    assert (code, said) == (0, "")


def test_a_run_is_shown_as_it_trains(browser: Browser, scene_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "toy.run"
    run.mkdir()
    published = tmp_path / "published.ply"
    (run / "run.toml").write_text(f"[paths]\noutput = {json.dumps(str(published))}\n")
    running = Viewer(run)
    try:
        page = browser.page(SIZE)
        page.goto(running.address)
        page.wait("document.body.innerText.includes('waiting for the first checkpoint')")
        step = {"event": "step", "stage": "train", "step": 40, "total": 100, "psnr": 20.0}
        (run / "log.jsonl").write_text(json.dumps(step) + "\n")
        scene = toy_scene()
        few = replace(scene, surfels=scene.surfels[torch.arange(0, 900, 3)])
        files.write(published, few)
        page.wait("document.body.innerText.includes('300 surfels')")
        page.wait("document.body.innerText.includes('train: step 40 of 100')")
        page.click(*labelled(page, "play"))
        seek(page, 0.1)
        before = settled(page)
        files.write(published, scene)
        page.wait("document.body.innerText.includes('900 surfels')")
        assert 10 < psnr(before, settled(page, unlike=before)) < 30
        assert running.stop()[0] == 0
    finally:
        running.process.kill()
        running.process.wait()
