"""The exported page in headless Chromium: its pictures are those of our renderer, and its controls work."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.playback.channels import Look, layer, opaque
from fourdgen.playback.shots import Shot
from fourdgen.render import draw, pick
from fourdgen.scene import files
from fourdgen.scene.formats import html
from fourdgen.scene.motion import Still
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.showing import first_view
from fourdgen.scene.surfels import sh_from_rgb
from tests.external.chromium import Browser, Page, address, psnr
from tests.toy import toy_scene

SIZE = (400, 400)
SETTLED = "document.documentElement.dataset.settled"
ENOUGH = 40.0  # dB; 30 is the goal, 60 is usual: byte rounding of opacities and colours leaves about that


@pytest.fixture(scope="module")
def scene() -> Scene4D:
    """A moving scene with view-dependent colours, as a file holds it."""
    return toy_scene(harmonics=4)


@pytest.fixture(scope="module")
def page(browser: Browser, scene: Scene4D, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "toy.html"
    html.write(path, scene)
    page = browser.page(SIZE)
    page.goto(address(path, "#freeze&bare"))
    page.wait(f"{SETTLED} !== undefined")
    return page


def show(page: Page, fragment: str) -> np.ndarray:
    """The picture of a state of the page."""
    page.call("Page.bringToFront")  # nothing is drawn in a tab that nobody sees
    page.evaluate(f"location.hash = {fragment!r}")
    page.wait(f"{SETTLED} === {fragment!r}")
    return page.screenshot()


def drawn(scene: Scene4D, clip: str, time: float, azimuth: float, elevation: float, channel: str) -> np.ndarray:
    """The same picture by our renderer."""
    view = first_view(scene, scene.reference)
    target = torch.tensor(view["target"])
    eye = orbit_eyes(torch.tensor([azimuth]), elevation, view["dist"]) + target
    camera = Cameras(look_at(eye, target), intrinsics(view["fov"], SIZE)[None], SIZE)
    look = Look(channel)
    return opaque(layer(scene, Shot(camera, clip, time), look, pick("cpu")), look, torch.tensor([1.0, 1.0, 1.0]))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (picture.min(-1) < 250 for picture in (one, other))
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("channel", ["rgb", "normal"])
@pytest.mark.parametrize(
    ("clip", "time", "azimuth", "elevation"),
    [("a", 0.0, 0, 0), ("a", 0.31, 130, 40), ("a", 0.77, 250, -30), ("b", 0.2, 40, 85), ("b", 0.4, -60, 15)],
)
def test_the_page_shows_what_we_render(
    page: Page, scene: Scene4D, clip: str, time: float, azimuth: float, elevation: float, channel: str
) -> None:
    fragment = f"#freeze&bare&bg=ffffff&clip={clip}&time={time}&az={azimuth}&el={elevation}&view={channel}"
    shown, wanted = show(page, fragment), drawn(scene, clip, time, azimuth, elevation, channel)
    print(f"{fragment}: {psnr(shown, wanted):.1f} dB, overlap {overlap(shown, wanted):.4f}")
    assert psnr(shown, wanted) >= ENOUGH
    assert overlap(shown, wanted) >= 0.99
    assert page.complaints == []


def test_confidence_is_shown_in_the_colours_of_the_channel(page: Page, scene: Scene4D) -> None:
    """The surfels' own confidence as a colour, through the map that `render --channel confidence` uses."""
    fragment = "#freeze&bare&bg=ffffff&clip=a&time=0.31&az=130&el=40&view=confidence"
    shown = show(page, fragment)
    sure = scene.surfels.confidence[:, None].expand(-1, 3)
    painted = replace(scene, surfels=replace(scene.surfels, sh=sh_from_rgb(sure)))
    view = first_view(scene, scene.reference)
    target = torch.tensor(view["target"])
    eye = orbit_eyes(torch.tensor([130.0]), 40.0, view["dist"]) + target
    camera = Cameras(look_at(eye, target), intrinsics(view["fov"], SIZE)[None], SIZE)
    out = draw(painted.at("a", 0.31), camera)
    alpha = out.alpha[0, ..., None].numpy()
    values = (out.rgb[0] / out.alpha[0, ..., None].clamp_min(1e-6)).clamp(0, 1).numpy()[..., 0]
    colors = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    wanted = colors * alpha + 255 * (1 - alpha)
    print(f"confidence: {psnr(shown, wanted):.1f} dB")
    assert psnr(shown, wanted) >= ENOUGH
    assert psnr(shown, show(page, fragment.replace("confidence", "rgb"))) < 20


def test_time_and_clip_change_the_picture(page: Page) -> None:
    """Or the comparison above would not see a motion that stands still."""
    base = "#freeze&bare&az=0&el=10"
    pictures = [show(page, f"{base}&{when}") for when in ("clip=a&time=0", "clip=a&time=0.25", "clip=b&time=0.25")]
    assert psnr(pictures[0], pictures[1]) < 30
    assert psnr(pictures[1], pictures[2]) < 35


def test_it_asks_for_nothing_but_itself(page: Page) -> None:
    assert [url.split(":")[0] for url in page.requests] == ["file", "blob"]


def test_a_still_scene_is_shown_without_a_timeline(browser: Browser, tmp_path: Path) -> None:
    still = replace(toy_scene(), motion=Still())
    html.write(tmp_path / "still.html", still)
    page = browser.page(SIZE)
    page.goto(address(tmp_path / "still.html", "#bare&bg=ffffff&az=30&el=10"))
    page.wait(f"{SETTLED} !== undefined")
    assert psnr(page.screenshot(), drawn(still, "a", 0.0, 30, 10, "rgb")) >= ENOUGH
    assert page.evaluate("document.getElementById('line').hidden")


def test_the_controls_work(browser: Browser, scene: Scene4D, tmp_path: Path) -> None:
    html.write(tmp_path / "toy.html", scene)
    page = browser.page(SIZE)
    page.goto(address(tmp_path / "toy.html", "#freeze&bg=ffffff"))

    def settled() -> np.ndarray:
        page.wait(f"{SETTLED} !== undefined")
        return page.screenshot()

    first = settled()
    page.drag((200, 150), (290, 150))
    turned = settled()
    assert psnr(first, turned) < 30
    page.key("r")
    assert psnr(first, settled()) > 50
    page.mouse("mouseWheel", 200, 150, deltaX=0, deltaY=-400)
    nearer = settled()
    assert (nearer[:280].min(-1) < 240).sum() > 1.5 * (first[:280].min(-1) < 240).sum()
    page.key("r")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        page.key(key)
    assert psnr(first, settled()) < 40
    assert page.evaluate("document.getElementById('clock').textContent") == "0.25 s"
    page.key("n")
    assert page.evaluate("document.getElementById('view').value") == "normal"
    page.key("b")
    settled()
    assert page.evaluate("document.documentElement.classList.contains('dark')")
    page.key(" ")
    page.wait("parseFloat(document.getElementById('clock').textContent) > 0.4", 20)
    page.key("c")
    assert page.evaluate("document.getElementById('clip').selectedOptions[0].textContent") == "b"
    page.key("l")
    assert "clip=b" in page.evaluate("location.hash") and "view=normal" in page.evaluate("location.hash")
    assert page.complaints == []


def test_fingers_turn_and_pinch(browser: Browser, scene: Scene4D, tmp_path: Path) -> None:
    html.write(tmp_path / "toy.html", scene)
    page = browser.page((360, 640), touch=True)
    page.goto(address(tmp_path / "toy.html", "#freeze&bg=ffffff"))
    page.wait(f"{SETTLED} !== undefined")
    first = page.screenshot()
    # All controls are inside the picture of a phone.
    edges = "[...document.querySelectorAll('#bar button, #bar select')].map(e => e.getBoundingClientRect().right)"
    assert max(page.evaluate(edges)) <= 360

    def touch(kind: str, *points: tuple[float, float]) -> None:
        given = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
        page.call("Input.dispatchTouchEvent", {"type": kind, "touchPoints": given})

    touch("touchStart", (150, 300), (210, 300))
    touch("touchMove", (100, 300), (260, 300))
    touch("touchEnd")
    page.wait(f"{SETTLED} !== undefined")
    pinched = page.screenshot()
    assert (pinched[:500].min(-1) < 240).sum() > 1.5 * (first[:500].min(-1) < 240).sum()
    touch("touchStart", (150, 300))
    touch("touchMove", (230, 300))
    touch("touchEnd")
    page.wait(f"{SETTLED} !== undefined")
    assert psnr(pinched, page.screenshot()) < 30


def test_a_name_cannot_run_anything(browser: Browser, scene: Scene4D, tmp_path: Path) -> None:
    title = "</script><img src=x onerror=\"document.title='broken'\">"
    html.write(tmp_path / "evil.html", scene, title=title)
    page = browser.page(SIZE)
    page.goto(address(tmp_path / "evil.html", "#freeze"))
    page.wait(f"{SETTLED} !== undefined")
    assert page.evaluate("document.title") == f"{title} · fourdgen"
    assert page.evaluate("document.getElementById('title').textContent") == title
    assert page.evaluate("document.images.length") == 0


def test_a_browser_without_webgl2_says_so(browser: Browser, scene: Scene4D, tmp_path: Path) -> None:
    html.write(tmp_path / "toy.html", scene)
    page = browser.page(SIZE)
    page.call(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "HTMLCanvasElement.prototype.getContext = () => null"}
    )
    page.goto(address(tmp_path / "toy.html"))
    page.wait("document.getElementById('sorry') && !document.getElementById('sorry').hidden")
    assert "WebGL 2" in page.evaluate("document.getElementById('sorry').textContent")


@pytest.mark.parametrize(
    ("lacking", "enough"),
    [
        ("WebGL2RenderingContext.prototype.getExtension = () => null", 35.0),  # bytes instead of half floats
        ("Worker = function () { throw new Error('no workers'); }", ENOUGH),
    ],
)
def test_it_does_without_what_a_browser_may_lack(
    browser: Browser, scene: Scene4D, tmp_path: Path, lacking: str, enough: float
) -> None:
    html.write(tmp_path / "toy.html", scene)
    page = browser.page(SIZE)
    page.call("Page.addScriptToEvaluateOnNewDocument", {"source": lacking})
    page.goto(address(tmp_path / "toy.html", "#freeze&bare&bg=ffffff&az=200&el=20&time=0.4"))
    page.wait(f"{SETTLED} !== undefined")
    for channel in ("rgb", "normal"):
        shown = show(page, f"#freeze&bare&bg=ffffff&az=200&el=20&time=0.4&view={channel}")
        quality = psnr(shown, drawn(scene, "a", 0.4, 200, 20, channel))
        print(f"{lacking[:20]}, {channel}: {quality:.1f} dB")
        assert quality >= enough


def test_a_lost_context_comes_back(page: Page) -> None:
    canvas = "document.getElementById('canvas')"
    before = show(page, "#freeze&bare&bg=ffffff&az=10&el=5&time=0.3")
    page.evaluate(f"(window.lose = {canvas}.getContext('webgl2').getExtension('WEBGL_lose_context')).loseContext()")
    page.evaluate("new Promise(done => setTimeout(() => { lose.restoreContext(); setTimeout(done, 300); }, 300))")
    after = show(page, "#freeze&bare&bg=ffffff&az=10&el=5&time=0.3001")
    assert psnr(before, after) > 40


def test_time_to_the_first_picture_and_size(browser: Browser, tmp_path: Path) -> None:
    """The demo's asset where it is there, else the toy: says how large its page is and how soon it shows something."""
    demo = Path(__file__).parents[2] / "demo" / "scene.ply"
    scene = files.read(demo) if demo.is_file() else toy_scene()
    html.write(tmp_path / "first.html", scene)
    page = browser.page((800, 600))
    page.goto(address(tmp_path / "first.html", "#freeze"))
    page.wait(f"{SETTLED} !== undefined")
    first = int(page.evaluate("document.documentElement.dataset.first"))
    size = (tmp_path / "first.html").stat().st_size
    print(f"{len(scene.surfels)} surfels: {size / 1e3:.0f} kB, first picture after {first} ms")
    assert 0 < first < 20_000 and not math.isnan(first)
    assert size < 3_000_000


def test_senseless_settings_leave_a_picture_of_the_subject(page: Page, scene: Scene4D) -> None:
    """What is no possible value is as if it were not there; what is beyond the controls' range ends there."""
    plain = show(page, "#freeze&bare&bg=ffffff&az=10&el=5&time=0.3&dist=4&fov=30&target=0,0,0&speed=1&clip=a")
    wrong = "&dist=-3&fov=0&speed=-1&time=x&az=&target=1,2&clip=c"
    assert psnr(plain, show(page, f"#freeze&bare&bg=ffffff&az=10&el=5{wrong}")) > 60
    last = float(scene.clips["a"].seconds[-1])
    far = show(page, "#freeze&bare&bg=ffffff&clip=a&az=10&el=5&time=999&dist=1e9&fov=179&target=0,0,0")
    assert page.evaluate("document.getElementById('clock').textContent") == f"{last:.2f} s"
    assert (far.min(-1) < 250).sum() > 0  # small, but there
    near = show(page, "#freeze&bare&bg=ffffff&time=-1&az=10&el=5&dist=4&fov=1e-9")
    assert page.evaluate("document.getElementById('clock').textContent") == "0.00 s"
    assert (near.min(-1) < 250).mean() > 0.3  # large, but not inside a single surfel


def test_the_colours_of_confidence_are_explained(browser: Browser, scene: Scene4D, tmp_path: Path) -> None:
    html.write(tmp_path / "toy.html", scene)
    page = browser.page(SIZE)
    page.goto(address(tmp_path / "toy.html", "#freeze"))
    page.wait(f"{SETTLED} !== undefined")
    shown = "getComputedStyle(document.getElementById('legend')).display !== 'none'"
    assert not page.evaluate(shown)
    show(page, "#freeze&view=confidence")
    assert page.evaluate(shown)
    assert "seen" in page.evaluate("document.getElementById('legend').textContent")
    show(page, "#freeze&view=confidence&bare")
    assert not page.evaluate(shown)
