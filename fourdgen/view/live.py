"""The live viewer in the browser, served by viser. Our own renderer draws what each visitor's camera sees: the picture
is that of `fourdgen render`, in every channel, and viser draws the filmed cameras into it by its depth.

While something moves, pictures are as large as the machine can draw 20 times a second; then one of full size follows.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import queue
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fourdgen.data.video import resized, write_video
from fourdgen.geometry.camera import orbit_eyes
from fourdgen.geometry.transforms import quat_from_matrix, rigid_inverse
from fourdgen.playback import shots as shooting
from fourdgen.playback.channels import layer, opaque
from fourdgen.playback.filmed import filmed_picture
from fourdgen.playback.request import CHANNELS
from fourdgen.playback.shots import Motion
from fourdgen.render import Rasterizer
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.looping import meets_itself
from fourdgen.scene.showing import first_view
from fourdgen.view.pictures import Eye, Pace, Scenery, picture, screenshot
from fourdgen.view.source import Source, source_of

FRUSTA = 8  # filmed cameras that are shown of a clip
THUMBNAIL = 160  # pixels: longer side of the filmed frames in them
SPEEDS = ("0.1", "0.25", "0.5", "1", "2")
FPS = 24.0  # pictures a second while the motion plays, at most
WATCH = 1.0  # seconds between two looks at the file
REST = 0.15  # seconds without a change after which the full picture is drawn
ORBIT_SIZE, ORBIT_FPS = (640, 640), 30.0


def view(
    path: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    report: Reporter = Silent(),
    device: str = "cpu",
    until: threading.Event | None = None,
) -> None:
    """Serves a scene.ply, or the run folder of a run that may still be training, until Ctrl-C or `until` is set.

    `port` None takes 8080 or the next that is free. Raises FourdgenError where the path is neither, the address cannot
    be had, or viser is missing.
    """
    source = source_of(path)
    rasterizer = rasterizer_on(device)
    server = _server(host, port)
    address = f"http://{_shown(host)}:{server.get_port()}"
    live = Live(server, source, rasterizer)
    report.emit("note", text=f"{path}: {address} (Ctrl-C ends it), renderer {rasterizer.name}", address=address)
    told = ""
    try:
        while until is None or not until.is_set():
            live.step()
            if source.trouble and source.trouble != told:
                report.warn(f"{source.trouble}; the last good picture stays")
            told = source.trouble
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        server.stop()


def _shown(host: str) -> str:
    """The host as it stands in an address: that of this machine where all are listened to."""
    host = "localhost" if host in ("0.0.0.0", "::", "") else host
    return f"[{host}]" if ":" in host else host


def _server(host: str, port: int | None) -> Any:
    try:
        with socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass  # viser would look for another port, or for ever
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        where = f"{host}:{port}" if port else host
        raise FourdgenError(f"cannot listen on {where}: {said}", "choose another --port or --host") from None
    try:
        import viser
    except ImportError as error:
        raise FourdgenError(
            f"the live viewer needs viser ({error})",
            "pip install 'fourdgen[viewer]', or export a page: fourdgen export scene.ply -o scene.html",
        ) from None
    # A visitor may leave between two pictures; nobody needs to hear that theirs was not delivered.
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    with contextlib.redirect_stdout(io.StringIO()):  # its banner; the reporter says where it is
        server = viser.ViserServer(host=host, port=port or 8080, label="fourdgen", verbose=False)
    server.gui.configure_theme(control_layout="collapsible", show_logo=False, show_share_button=False)
    server.scene.set_up_direction("-y")
    server.scene.world_axes.visible = False
    return server


class Live:
    """The panel, the visitors and the clock. Everything is drawn in the thread that calls `step`; what viser's threads
    report is only noted down for it."""

    def __init__(self, server: Any, source: Source, rasterizer: Rasterizer) -> None:
        self.server, self.source, self.rasterizer = server, source, rasterizer
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._wake = threading.Event()
        self._pace = Pace()
        self._sent: dict[int, tuple[Any, bool]] = {}  # per visitor: what they see, and whether at full size
        self._changed: dict[int, float] = {}
        self._frusta: list[Any] = []
        self._motion: Motion | None = None
        self._video_seconds = 0.0  # how far the motion has played
        self._before = self._looked = time.monotonic()
        self._build_panel()
        self._arrived()
        server.on_client_connect(self._greet)
        server.on_client_disconnect(lambda client: self._sent.pop(client.client_id, None))

    # ---- the panel

    def _build_panel(self) -> None:
        gui = self.server.gui
        self._status = gui.add_markdown("")
        with gui.add_folder("Time"):
            self._playing = gui.add_checkbox("play", True)
            self._time = gui.add_slider("seconds", 0.0, 1.0, 0.001, 0.0)
            self._speed = gui.add_dropdown("speed", SPEEDS, initial_value="1")
            self._clip = gui.add_dropdown("clip", ("-",))
        with gui.add_folder("Show"):
            self._channel = gui.add_dropdown("channel", CHANNELS, initial_value="rgb")
            self._background = gui.add_rgb("background", (255, 255, 255))
            self._cameras = gui.add_checkbox("filmed cameras", False)
        with gui.add_folder("Save"):
            shot = gui.add_button("screenshot", hint="A PNG with alpha of what you see")
            orbit = gui.add_button("orbit video", hint="One turn around the subject, as fourdgen render makes it")
        self._time.on_update(self._scrubbed)
        self._clip.on_update(lambda event: self._later(self._clip_chosen))
        self._cameras.on_update(lambda event: self._later(self._show_cameras))
        for handle in (self._playing, self._speed, self._channel, self._background):
            handle.on_update(lambda event: self._wake.set())
        shot.on_click(lambda event: self._later(functools.partial(self._save_screenshot, event.client)))
        orbit.on_click(lambda event: self._later(functools.partial(self._save_orbit, event.client)))

    def _later(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        self._wake.set()

    def _scrubbed(self, event: Any) -> None:
        if event.client_id is None:
            return  # we have set it ourselves

        def seek() -> None:
            self._playing.value = False
            if self._motion is not None:
                self._video_seconds = (self._time.value - float(self._motion.clip.seconds[0])) / self._motion.speed

        self._later(seek)

    def _arrived(self) -> None:
        """A scene is there, or another one than before: the panel follows it and keeps the clip and the time."""
        scene = self.source.scene
        if scene is None:
            return
        names = tuple(scene.clips)
        kept = self._clip.value if self._clip.value in names else scene.reference
        self._clip.options = names
        self._clip.value = kept
        if self._motion is None:
            start = first_view(scene, scene.reference)
            eye = orbit_eyes(torch.tensor([start["az"]]), start["el"], start["dist"])[0] + torch.tensor(start["target"])
            initial = self.server.initial_camera
            initial.position, initial.look_at = tuple(eye.tolist()), tuple(start["target"])
            initial.up, initial.fov = (0.0, -1.0, 0.0), math.radians(start["fov"])
        self._clip_chosen()
        self._show_cameras()

    def _clip_chosen(self) -> None:
        scene = self.source.scene
        if scene is None or self._clip.value not in scene.clips:
            return
        clip = scene.clips[self._clip.value]
        self._motion = Motion(clip, back_and_forth=not meets_itself(scene, clip))
        first, last = float(clip.seconds[0]), float(clip.seconds[-1])
        self._time.min, self._time.max = round(first, 3), max(round(last, 3), round(first, 3) + 1e-3)
        self._time.value = min(max(self._time.value, self._time.min), self._time.max)

    def _say(self) -> None:
        scene = self.source.scene
        lines = [f"**{_plain(self.source.name)}**"]
        lines += [f"{len(scene.surfels)} surfels"] if scene is not None else ["waiting for the first checkpoint"]
        lines += [_plain(said) for said in (self.source.progress(), self.source.trouble) if said]
        if self._channel.value == "confidence":
            lines.append("confidence: violet is never seen, yellow is seen well")
        text = "  \n".join(lines)
        if self._status.content != text:
            self._status.content = text

    # ---- the filmed cameras

    def _show_cameras(self) -> None:
        for handle in self._frusta:
            handle.remove()
        self._frusta = []
        scene = self.source.scene
        if scene is None or not self._cameras.value:
            return
        capture = self.source.capture()
        for number, (name, clip) in enumerate(scene.clips.items()):
            width, height = clip.cameras.size
            shrink = THUMBNAIL / max(width, height)
            for index in np.unique(np.linspace(0, len(clip.seconds) - 1, FRUSTA).round().astype(int)).tolist():
                pose = rigid_inverse(clip.cameras.cam_from_world[index : index + 1].float())
                frame = None if capture is None else filmed_picture(capture, clip, index)
                size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
                handle = self.server.scene.add_camera_frustum(
                    f"/filmed/{number}/{index}", scale=0.14, thickness=0.01, color=(140, 140, 140),
                    aspect=width / height,
                    fov=2 * math.atan(height / 2 / float(clip.cameras.K[index, 1, 1])),
                    image=None if frame is None else resized(frame, size), cast_shadow=False,
                    wxyz=quat_from_matrix(pose[:, :3, :3])[0].numpy(), position=pose[0, :3, 3].numpy(),
                )  # fmt: skip
                handle.on_click(functools.partial(self._stand_at, name, index))
                self._frusta.append(handle)
        self._sent.clear()  # pictures need their depth now

    def _stand_at(self, name: str, index: int, event: Any) -> None:
        """Brings a visitor to a filmed camera, at the time of its frame."""

        def go() -> None:
            scene = self.source.scene
            if scene is None or name not in scene.clips or index >= len(scene.clips[name].seconds):
                return
            clip, client = scene.clips[name], event.client
            pose = rigid_inverse(clip.cameras.cam_from_world[index : index + 1].float())
            with client.atomic():
                client.camera.wxyz = quat_from_matrix(pose[:, :3, :3])[0].double().numpy()
                client.camera.position = pose[0, :3, 3].double().numpy()
            self._playing.value, self._clip.value = False, name
            self._clip_chosen()
            self._time.value = float(clip.seconds[index])

        self._later(go)

    # ---- drawing

    def _greet(self, client: Any) -> None:
        client.camera.on_update(lambda camera: self._wake.set())
        self._wake.set()

    def step(self) -> None:
        """Looks at the file, moves the clock, draws for every visitor, and waits until there is something to do."""
        now = time.monotonic()
        if now - self._looked >= WATCH:
            self._looked = now
            if self.source.refresh():
                self._arrived()
        self._say()
        while not self._jobs.empty():
            self._jobs.get()()
        passed, self._before = min(now - self._before, 0.2), now
        moving = bool(self._playing.value) and self._motion is not None
        if moving:
            assert self._motion is not None
            self._video_seconds = (self._video_seconds + passed * float(self._speed.value)) % self._motion.period
            self._time.value = min(self._motion.at(self._video_seconds), self._time.max)
        rested = [self._serve(client, moving) for client in self.server.get_clients().values()]
        frame = max(0.005, 1 / FPS - (time.monotonic() - now))
        self._wake.wait(frame if moving and rested else WATCH if all(rested) else REST)
        self._wake.clear()

    def _scenery(self) -> Scenery | None:
        scene = self.source.scene
        if scene is None or self._clip.value not in scene.clips:
            return None
        return Scenery(scene, self._clip.value, float(self._time.value), self._channel.value, self._background.value)

    def _serve(self, client: Any, moving: bool) -> bool:
        """Draws for a visitor what has changed for them. Returns whether nothing is left to do."""
        scenery = self._scenery()
        if scenery is None:
            return True
        eye, number = _eye_of(client), client.client_id
        wanted, now = (eye, scenery), time.monotonic()
        sent = self._sent.get(number)
        if sent is None or not _same(sent[0], wanted):
            self._changed[number] = now
        elif sent[1]:
            return True
        still = not moving and now - self._changed.get(number, 0.0) >= REST
        if not still and sent is not None and _same(sent[0], wanted):
            return False  # the full picture comes when they have rested a little
        camera = eye.camera(1.0 if still else self._pace.scale(eye.window))
        begun = time.perf_counter()
        pixels, depth = picture(scenery, camera, self.rasterizer)
        client.scene.set_background_image(
            pixels, format="jpeg", jpeg_quality=92 if still else 85, depth=depth if self._frusta else None
        )
        self._pace.took(time.perf_counter() - begun, camera.size)
        self._sent[number] = (wanted, still)
        return still

    # ---- files for the visitor

    def _save_screenshot(self, client: Any) -> None:
        scenery = self._scenery()
        if scenery is not None:
            name = f"{Path(self.source.name).stem}_{scenery.channel}_{scenery.seconds:.3f}s.png"
            data = screenshot(scenery, _eye_of(client).camera(), self.rasterizer)
            client.send_file_download(name, data, save_immediately=True)

    def _save_orbit(self, client: Any) -> None:
        """The video of `fourdgen render --orbit` in the channel and before the background that are shown."""
        scenery = self._scenery()
        if scenery is None or self._motion is None:
            return
        note = client.add_notification("orbit video", "drawing", loading=True, with_close_button=False)
        shots = shooting.orbit(scenery.scene, self._motion, ORBIT_SIZE, ORBIT_FPS, 15.0)
        background = torch.tensor(scenery.background) / 255
        look = scenery.look(shots[0].camera)

        def pictures() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
            for number, shot in enumerate(shots):
                if number % 10 == 0:
                    note.body = f"picture {number} of {len(shots)}"
                yield opaque(layer(scenery.scene, shot, look, self.rasterizer), look, background)

        # What can go wrong is a full disk, and one visitor's video must not end the viewer for all.
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "orbit.mp4"
                write_video(file, pictures(), ORBIT_FPS)
                name = f"{Path(self.source.name).stem}_orbit.mp4"
                client.send_file_download(name, file.read_bytes(), save_immediately=True)
        except OSError as error:
            client.add_notification("orbit video", f"could not be written: {error.strerror or error}")
        finally:
            note.remove()


def _eye_of(client: Any) -> Eye:
    camera = client.camera
    window = (max(16, int(camera.image_width)), max(16, int(camera.image_height)))
    wxyz, position = (tuple(float(v) for v in values) for values in (camera.wxyz, camera.position))
    return Eye(wxyz, position, float(camera.fov), window)


def _same(one: tuple[Eye, Scenery], other: tuple[Eye, Scenery]) -> bool:
    """Whether two pictures would be equal. Scenes are compared by identity: their tensors are never changed."""
    a, b = one[1], other[1]
    return (
        one[0] == other[0]
        and a.scene is b.scene
        and (a.clip, a.seconds, a.channel, a.background) == (b.clip, b.seconds, b.channel, b.background)
    )


def _plain(text: str) -> str:
    """A name as Markdown that shows it and nothing else."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|&" else c for c in text)
