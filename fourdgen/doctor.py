"""What works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fourdgen.machine import cores
from fourdgen.report import FourdgenError, Reporter, Silent, memory, table

CORE = ("numpy", "scipy", "av", "opencv-python-headless", "trimesh", "safetensors", "onnxruntime")
MODULES = {"opencv-python-headless": "cv2", "usd-core": "pxr"}  # where the package is called otherwise than its module
EXTRAS = {  # package -> what it gives
    "open3d": "meshes with fewer triangles (export --faces)",
    "viser": "the live viewer",
    "usd-core": "USD files (export -o scene.usdz)",
    "diffusers": "neural video models",
}


@dataclass(frozen=True)
class Finding:
    """state: ok, optional (not there, and nothing that runs by default wants it), missing (something is lost without
    it) or broken (fourdgen cannot work). remedy: what to do, or ""."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def examine(fetch: bool = False, names: Sequence[str] = (), report: Reporter = Silent()) -> list[Finding]:
    """Looks at everything that fourdgen can use. `fetch` gets the default weights that are missing, `names` the
    weights of these names, and says so. Raises FourdgenError: no weights of such a name, or they cannot be had."""
    findings = [_python(), _torch(), *_packages(), _kernels(), _gpu(), _video()]
    if fetch or names:
        from fourdgen import weights

        wanted = [row.name for row in weights.TABLE if fetch and row.default]
        weights.fetch([*wanted, *names], report)
    return findings + _weights() + _extras()


def text(findings: list[Finding]) -> str:
    rows = [(finding.state, finding.name, finding.detail) for finding in findings]
    remedies = [f"{finding.name}: {finding.remedy}" for finding in findings if finding.remedy]
    broken = [finding.name for finding in findings if finding.state == "broken"]
    verdict = f"fourdgen cannot work here: {', '.join(broken)}" if broken else "fourdgen works here"
    return "\n".join(
        [table(rows), "", *(["What to do:", *(f"  {line}" for line in remedies), ""] if remedies else []), verdict]
    )


def _python() -> Finding:
    return Finding(
        "python", "ok", f"{platform.python_version()} on {platform.machine()} {platform.system()}, {cores()} cores"
    )


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "broken", str(error), "make setup")
    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _packages() -> list[Finding]:
    findings = []
    for package in CORE:
        module = MODULES.get(package, package)
        try:
            importlib.import_module(module)
        except ImportError as error:
            findings.append(Finding(package, "broken", str(error), "make setup"))
            continue
        findings.append(Finding(package, "ok", _version(package)))
    return findings


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "version unknown"


def _install(package: str) -> str:
    """The command that installs an optional package here: in this Python, in the version that fits."""
    constraints = Path(__file__).parents[1] / "constraints.txt"
    pinned = ["-c", str(constraints)] if constraints.is_file() else []
    try:
        named = [text.partition(";")[0].strip() for text in metadata.requires("fourdgen") or ()]
    except metadata.PackageNotFoundError:
        named = []
    wanted = next((text for text in named if re.match(r"[\w.-]+", text)[0] == package), package)  # type: ignore[index]
    return shlex.join([sys.executable, "-m", "pip", "install", *pinned, wanted])


def _kernels() -> Finding:
    from fourdgen import native

    if native.available():
        return Finding("CPU kernels", "ok", f"compiled, {native.build()} build")
    remedy = "install a C++ compiler (g++ or clang), then make setup; without them drawing is many times slower"
    return Finding("CPU kernels", "missing", native.why_not(), remedy)


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("GPU", "missing", "torch is missing")
    if not torch.cuda.is_available():
        return Finding("GPU", "optional", "none that torch can use; the CPU kernels do the work")
    name = torch.cuda.get_device_name(0)
    size = memory(torch.cuda.get_device_properties(0).total_memory / 2**20)
    if importlib.util.find_spec("gsplat") is None:
        return Finding("GPU", "missing", f"{name}, {size}, but no gsplat to draw with", _install("gsplat"))
    return Finding("GPU", "ok", f"{name}, {size}, gsplat {_version('gsplat')}")


def _video() -> Finding:
    """Writes a short H.264 video and reads it back, which is what PyAV's own FFmpeg is needed for."""
    try:
        import numpy as np

        from fourdgen.data import video

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.mp4"
            video.write_video(path, [np.full((32, 32, 3), shade, np.uint8) for shade in (0, 128, 255)], fps=10)
            count = sum(1 for _ in video.read_video(path))
    except Exception as error:  # whatever a broken installation raises is the finding
        return Finding("video", "broken", f"{type(error).__name__}: {error}", "pip install --force-reinstall av")
    if count != 3:
        return Finding("video", "broken", f"{count} of 3 frames came back", "pip install --force-reinstall av")
    return Finding(
        "video", "ok", "H.264 written and read back" + ("; ffmpeg is there too" if shutil.which("ffmpeg") else "")
    )


def _weights() -> list[Finding]:
    from fourdgen import weights

    findings = []
    for row in weights.TABLE:
        name = f"weights {row.name}"
        try:
            path = weights.locate(row.name)
        except FourdgenError as error:
            findings.append(Finding(name, "missing", error.message, error.hint))
            continue
        if path is not None:
            findings.append(Finding(name, "ok", str(path)))
        else:
            state, how = ("missing", "--fetch") if row.default else ("optional", f"--weights {row.name}")
            remedy = f"fourdgen doctor {how}"
            findings.append(Finding(name, state, f"{row.use} ({row.megabytes:g} MB, {row.licence})", remedy))
    return findings


def _extras() -> list[Finding]:
    findings = []
    for package, use in EXTRAS.items():
        if importlib.util.find_spec(MODULES.get(package, package)) is None:
            findings.append(Finding(package, "optional", use, _install(package)))
        else:
            findings.append(Finding(package, "ok", _version(package)))
    return findings
