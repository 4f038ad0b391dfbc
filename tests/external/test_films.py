"""Films of `fourdgen render` play in headless Chromium, with the pictures that were drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fourdgen.data.video import read_video
from fourdgen.playback import RenderRequest, render
from fourdgen.scene import files
from tests.external.chromium import Browser, Page, address, psnr
from tests.toy import toy_scene

SIZE = 160


def shown(browser: Browser, film: Path, element: str) -> Page:
    """A page with nothing but the film."""
    page_file = film.with_name(f"{film.stem}.html")
    page_file.write_text(
        f"<style>body {{ margin: 0 }} video, img {{ display: block }}</style>{element}", encoding="utf-8"
    )
    page = browser.page((SIZE, SIZE))
    page.goto(address(page_file))
    page.call("Page.bringToFront")  # nothing is drawn in a tab that nobody sees
    return page


@pytest.fixture
def scene_path(tmp_path: Path) -> Path:
    files.write(tmp_path / "scene.ply", toy_scene())
    return tmp_path / "scene.ply"


def orbit(scene_path: Path, name: str) -> Path:
    return render(scene_path, RenderRequest(orbit=True, size=str(SIZE), fps=5, output=scene_path.with_name(name)))


def test_the_video_plays(browser: Browser, scene_path: Path) -> None:
    film = orbit(scene_path, "orbit.mp4")
    page = shown(browser, film, f"<video id=film muted src={film.name}></video>")
    page.wait("document.getElementById('film').readyState >= 2")
    frames = [frame.picture for frame in read_video(film)]
    length = page.evaluate("document.getElementById('film').duration")
    assert length == pytest.approx(len(frames) / 5, abs=0.05)
    assert page.evaluate("document.getElementById('film').videoWidth") == SIZE
    for number in (0, len(frames) // 3):
        page.evaluate(f"document.getElementById('film').currentTime = {(number + 0.5) / 5}")
        page.wait("!document.getElementById('film').seeking")
        page.evaluate("new Promise(done => setTimeout(done, 500))")
        picture = page.screenshot()
        print(f"frame {number}: {psnr(picture, frames[number]):.1f} dB")
        assert psnr(picture, frames[number]) > 30
    page.evaluate("document.getElementById('film').play()")
    page.wait(f"document.getElementById('film').currentTime > {len(frames) // 3 / 5 + 0.4}")
    assert page.complaints == []


@pytest.mark.parametrize("name", ["orbit.gif", "orbit.webp"])
def test_animations_play(browser: Browser, scene_path: Path, name: str) -> None:
    film = orbit(scene_path, name)
    page = shown(browser, film, f"<img id=film src={film.name}>")
    page.wait("document.getElementById('film').complete && document.getElementById('film').naturalWidth > 0")
    assert page.evaluate("document.getElementById('film').naturalWidth") == SIZE
    first = page.screenshot()
    assert (first[0, 0] == 255).all()  # the page is white, and so is what is clear
    assert (first < 200).any(-1).mean() > 0.05
    pictures = [first]
    for _ in range(4):
        page.evaluate("new Promise(done => setTimeout(done, 500))")
        pictures.append(page.screenshot())
    assert max(np.abs(first.astype(int) - other).mean() for other in pictures[1:]) > 2  # it moves
