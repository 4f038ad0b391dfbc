"""The house is kept: short modules, one voice, small files, nothing left to do, quick starts."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "fourdgen").rglob("*.py"))
MOST_LINES = 450
LARGEST_FILE, LARGEST_ASSETS = 1_500_000, 5_000_000  # bytes


def tracked() -> list[Path]:
    """What git tracks; everything outside the ignored folders where this is not a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        names = listed.stdout.decode().split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    ignored = {".git", ".venv", "build", "demo", "dist", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not ignored & set(path.relative_to(ROOT).parts)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_reporter_prints(path: Path) -> None:
    if path.name == "report.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        called = node.func if isinstance(node, ast.Call) else None
        printing = isinstance(called, ast.Name) and called.id in ("print", "pprint", "breakpoint")
        writing = isinstance(called, ast.Attribute) and ast.unparse(called) in ("sys.stdout.write", "sys.stderr.write")
        assert not printing, f"{path}:{node.lineno} prints"  # type: ignore[attr-defined]
        assert not writing, f"{path}:{node.lineno} writes to the console"  # type: ignore[attr-defined]


def test_nothing_is_left_to_do() -> None:
    unfinished = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|x" r"fail)\b")  # in pieces, so that this line is not found
    for path in tracked():
        if path.suffix in (".py", ".cpp", ".h", ".toml", ".md", ".js", ".html"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                assert not unfinished.search(line), f"{path}:{number}: {line.strip()}"


def test_no_place_of_one_machine_is_named() -> None:
    around = [f"{re.escape(str(ROOT.parent))}/"] if ROOT.parent != Path("/") else []  # wherever this checkout lies
    home = re.compile(rf"({'|'.join(['/home/', '/Users/', '/root/', *around])})\w")
    for path in tracked():
        if path.suffix in (".py", ".cpp", ".h", ".toml", ".md", ".json", "") and path != Path(__file__):
            text = path.read_bytes().decode(errors="ignore")
            found = home.search(text)
            assert found is None, f"{path}: {text[found.start() : found.start() + 60]!r}"


def test_files_are_small() -> None:
    large = {str(path): path.stat().st_size for path in tracked() if path.stat().st_size > LARGEST_FILE}
    assert large == {}
    assert sum(path.stat().st_size for path in tracked() if (ROOT / "assets") in path.parents) < LARGEST_ASSETS


def python(*arguments: str) -> tuple[float, str]:
    """Processor seconds and output of an interpreter: other work may share the machine, so the clock says nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_import_is_quick_and_brings_no_torch() -> None:
    seconds, output = python("-c", "import fourdgen, sys; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert output == "False False\n"
    assert seconds < 0.6  # 0.3 s is promised for a machine with nothing else to do


def test_help_is_quick_and_brings_no_torch() -> None:
    seconds, output = python("-m", "fourdgen.cli", "--help")
    assert "reconstruct" in output
    assert seconds < 2.0  # 1 s is promised for a machine with nothing else to do
    assert python("-c", "import fourdgen.cli, sys; print('torch' in sys.modules)")[1] == "False\n"
