"""New views of a known asset: where to look, what to hand to a generator, and whether to believe what comes back.

A generator is anything with one method, `generate(guide, footage, report) -> Generated`: `fill` needs no weights,
`video` drives diffusion models, and a recipe may name another as "module:Class".
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from fourdgen import workspace
from fourdgen.data.capture import Capture
from fourdgen.geometry.camera import Cameras
from fourdgen.report import FourdgenError, Reporter
from fourdgen.scene.scene4d import Scene4D

BUILT_IN = {"fill": "fourdgen.generate.fill:Fill", "video": "fourdgen.generate.video:Video"}


@dataclass(frozen=True)
class Guide:
    """One new view of a clip's motion, as the asset shows it. Colours are sRGB on white; t frames.

    `confidence` 0..1 says which pixels may guide (above 0.5) and how firmly. `reference` is a filmed frame on white.
    """

    name: str
    clip: str  # whose motion it is
    seconds: Float[Tensor, "t"]  # of that clip
    cameras: Cameras  # root frame, one a frame
    rgb: Float[Tensor, "t h w 3"]
    alpha: Float[Tensor, "t h w"]
    confidence: Float[Tensor, "t h w"]
    reference: Float[Tensor, "h2 w2 3"]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class Footage:
    """What was filmed, and the asset that explains it; a generator may use both. `capture` holds the scene's clips, in
    the asset's colours (`footage_of`)."""

    scene: Scene4D
    capture: Capture

    def frames(self) -> list[tuple[str, int]]:
        """Clip and index of every filmed frame that may be looked at: those that are held out for a test may not."""
        return [(name, index) for name in self.scene.clips for index in self.scene.trained_frames(name)]


def footage_of(scene: Scene4D, capture: Capture) -> Footage:
    """The asset and its filmed frames, whose colours are brought to the asset's."""
    return Footage(scene, capture.toned({name: (clip.gain, clip.bias) for name, clip in scene.clips.items()}))


@dataclass(frozen=True)
class Generated:
    """What a generator made of a guide: colour on white, and the silhouette where it knows it (else it is found).

    `filmed`: share 0..1 of each pixel that comes from filmed frames; None where nothing does.
    """

    rgb: Float[Tensor, "t h w 3"]
    alpha: Float[Tensor, "t h w"] | None = None
    filmed: Float[Tensor, "t h w"] | None = None


class Generator(Protocol):
    """Turns a guide into a video of the same frames and size. Raises FourdgenError for what the person can mend."""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated: ...


def make_generator(name: str, options: Mapping[str, Any]) -> Generator:
    """`fill`, `video`, or "module:Class" of another package, built with `options` as keyword arguments.

    Raises FourdgenError: nothing of that name can be imported or made with these options, or it has no `generate`.
    """
    module, colon, attribute = BUILT_IN.get(name, name).partition(":")
    names = ", ".join(BUILT_IN)
    hint = f'name one of {names}, or "module:Class" of this folder or an installed package, and options it takes'
    if not colon:
        raise FourdgenError(f"{name}: no such generator", hint)
    try:
        with _this_folder():
            made = getattr(importlib.import_module(module), attribute)(**options)
    except FourdgenError:
        raise
    except Exception as error:  # of another package, which may refuse its options as it likes
        said = f"{error}" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise FourdgenError(f"the generator {name} cannot be made: {said}", hint) from error
    if not callable(getattr(made, "generate", None)):
        raise FourdgenError(f"the generator {name} has no method generate(guide, footage, report)", hint)
    generator: Generator = made
    return generator


@contextmanager
def _this_folder() -> Iterator[None]:
    """Modules of the current folder can be imported, after those that are installed."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def code_of(name: str) -> str:
    """SHA-256 of the source that "module:Class" is made of: the module's file, or all Python files of its package."""
    with _this_folder():
        spec = importlib.util.find_spec(name.partition(":")[0].partition(".")[0])
    digest = hashlib.sha256()
    if spec is not None:
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        files = [path for folder in folders for path in sorted(folder.rglob("*.py"))] or [Path(spec.origin or "")]
        for path in files:
            if path.is_file():
                digest.update(path.name.encode() + b"\0" + workspace.hash_path(path).encode())
    return digest.hexdigest()
