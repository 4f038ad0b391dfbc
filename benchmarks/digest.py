"""Which code made a result: results of other code are not taken for today's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fourdgen
from fourdgen.config import recipe_folder


def code_digest(*further: Path) -> str:
    """Of everything that can change a result: the package, the recipes, which may lie beside it, and `further` files of
    the benchmark itself."""
    digest = hashlib.sha256()
    folders = (Path(fourdgen.__file__).parent, recipe_folder())
    for path in (*sorted({path for folder in folders for path in folder.rglob("*")}), *further):
        if path.suffix in (".py", ".so", ".toml"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
