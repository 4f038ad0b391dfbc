"""fourdgen: videos of one moving subject in, one 4D asset of Gaussian surfels out.

    scene = fourdgen.reconstruct(["a.mp4", "b.mp4"], "scene.ply")  # or fourdgen.load("scene.ply")
    surfels = scene.at("a", seconds=0.5)
    out = fourdgen.draw(surfels, scene.clips["a"].cameras[0])

Names are looked up on first use, so that `import fourdgen` costs nothing (torch alone takes seconds).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourdgen.api import evaluate, reconstruct, save
    from fourdgen.geometry.camera import Cameras
    from fourdgen.render import RenderOut, draw
    from fourdgen.report import FourdgenError
    from fourdgen.scene.files import read as load
    from fourdgen.scene.scene4d import Scene4D
    from fourdgen.scene.surfels import Surfels

    __version__: str

__all__ = [
    "Cameras", "FourdgenError", "RenderOut", "Scene4D", "Surfels", "__version__", "draw", "evaluate", "load",
    "reconstruct", "save",
]  # fmt: skip

_HOMES = {
    "Cameras": ("fourdgen.geometry.camera", "Cameras"),
    "FourdgenError": ("fourdgen.report", "FourdgenError"),
    "RenderOut": ("fourdgen.render", "RenderOut"),
    "Scene4D": ("fourdgen.scene.scene4d", "Scene4D"),
    "Surfels": ("fourdgen.scene.surfels", "Surfels"),
    "draw": ("fourdgen.render", "draw"),
    "evaluate": ("fourdgen.api", "evaluate"),
    "load": ("fourdgen.scene.files", "read"),
    "reconstruct": ("fourdgen.api", "reconstruct"),
    "save": ("fourdgen.api", "save"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("fourdgen")
        except PackageNotFoundError:  # imported from a checkout that was never installed
            value = "0+unknown"
    elif name in _HOMES:
        module, attribute = _HOMES[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'fourdgen' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """`fourdgen.evaluate` is a function to its users; the package of that name inside must not take its place, which it
    would as soon as somebody imports it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
