"""The floors: a module imports lower floors only, and some libraries have one door each: a module or a room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fourdgen"

# Longest prefix wins. Rooms of one floor that must not import each other are listed in APART.
FLOORS = {
    "fourdgen": 0,  # only the lazy names of the package itself
    "fourdgen.report": 0,
    "fourdgen.adam": 1,
    "fourdgen.config": 1,
    "fourdgen.disk": 1,
    "fourdgen.workspace": 1,
    "fourdgen.machine": 1,
    "fourdgen.native": 1,
    "fourdgen.picture_losses": 1,
    "fourdgen.side_by_side": 2,
    "fourdgen.skinning": 1,
    "fourdgen.weights": 1,
    "fourdgen.geometry": 2,
    "fourdgen.data": 3,
    "fourdgen.scene": 4,
    "fourdgen.render": 5,
    "fourdgen.fit": 6,
    "fourdgen.priors": 6,
    "fourdgen.poses": 7,
    "fourdgen.generate": 7,
    "fourdgen.stages": 8,
    "fourdgen.planning": 9,
    "fourdgen.pipeline": 9,
    "fourdgen.account": 9,
    "fourdgen.doctor": 9,
    "fourdgen.checks": 9,
    "fourdgen.api": 9,
    "fourdgen.receipt": 9,
    "fourdgen.playback": 9,
    "fourdgen.evaluate": 9,
    "fourdgen.view": 9,
    "fourdgen.verbs": 10,
    "fourdgen.cli": 11,
}
APART = {6: ("fourdgen.fit", "fourdgen.priors"), 7: ("fourdgen.poses", "fourdgen.generate")}
DOORS = {
    "typer": {"fourdgen.cli", "fourdgen.verbs"},
    "gsplat": {"fourdgen.render.cuda"},
    "av": {"fourdgen.data.video"},
    "rich": {"fourdgen.report"},
    "viser": {"fourdgen.view.live"},
}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(module: str, source: str) -> set[str]:
    """Full names of what a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import hides which floor it leads to"
            # `from fourdgen import native` imports the module fourdgen.native.
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.add(full if full in MODULES else str(node.module))
    return found


def room(module: str) -> str:
    """The entry of FLOORS that a module belongs to."""
    while module not in FLOORS:
        above, dot, _ = module.rpartition(".")
        assert dot, f"{module} has no floor: add it to FLOORS"
        module = above
    return module


def complaints(module: str, source: str) -> list[str]:
    """What a module imports and must not."""
    home = room(module)
    floor = FLOORS[home]
    wrong = []
    for name in sorted(imports_of(module, source)):
        top = name.split(".")[0]
        if top in DOORS and module not in DOORS[top] and home not in DOORS[top]:
            wrong.append(f"imports {name}: only {', '.join(DOORS[top])} may")
        if top != "fourdgen" or name == "fourdgen":
            continue
        if module == "fourdgen":
            continue  # The package's lazy names lead everywhere, and none is loaded before it is used.
        other = room(name)
        if FLOORS[other] > floor:
            wrong.append(f"imports {name} of floor {FLOORS[other]} from floor {floor}")
        elif other != home and floor in APART and other in APART[floor]:
            wrong.append(f"imports {name}, its neighbour on floor {floor}")
        elif home == "fourdgen.stages" and name.startswith("fourdgen.stages."):
            wrong.append(f"imports {name}: stages hand over artifacts and never import each other")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_lower_floors_only(module: str) -> None:
    assert complaints(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("fourdgen.geometry.camera", "from fourdgen.data.video import probe", "of floor 3 from floor 2"),
        ("fourdgen.geometry.camera", "import fourdgen.fit.loop", "of floor 6 from floor 2"),
        ("fourdgen.config", "from fourdgen import pipeline", "of floor 9 from floor 1"),
        ("fourdgen.stages.train", "from fourdgen.stages.align import STAGE", "never import each other"),
        ("fourdgen.fit.loop", "from fourdgen.priors import masks", "its neighbour"),
        ("fourdgen.fit.loop", "def f():\n    import av.filter", "only fourdgen.data.video may"),
    ],
)
def test_the_test_sees_what_is_forbidden(module: str, line: str, words: str) -> None:
    found = complaints(module, line)
    assert len(found) == 1
    assert words in found[0]
