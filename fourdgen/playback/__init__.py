"""The verb `render`: videos, GIFs and picture folders of a scene.

What a request can get wrong is found before anything heavy is imported (request.py); film.py draws.
"""

from __future__ import annotations

from pathlib import Path

from fourdgen.playback.request import RenderRequest, check_request, parse_color, parse_size
from fourdgen.report import Reporter, Silent
from fourdgen.scene import ply

__all__ = ["RenderRequest", "check_request", "parse_color", "parse_size", "render"]


def render(
    scene_path: Path, request: RenderRequest, report: Reporter = Silent(), device: str = "cpu", renderer: str = "auto"
) -> Path:
    """Draws what was asked for and returns where it is.

    Raises FourdgenError for what cannot be drawn, and for a place that cannot be written, before a picture is drawn.
    """
    ply.check(scene_path)
    check_request(request)
    from fourdgen.playback.film import film
    from fourdgen.render.carried import rasterizer_on
    from fourdgen.scene import files

    return film(
        files.read(scene_path, report), Path(scene_path), request, report, rasterizer_on(device, renderer, report)
    )
