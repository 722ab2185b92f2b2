"""Run the tests: the main ones in one process, those of the Slicer extension one process per file.

`.ci/tests.py all|slicer [arguments of pytest]`, from `make test` and `make test-slicer`. Slicer's Qt bindings
are changed in place and its application is one per process, hence the processes.

Paths among the arguments choose which of the two kinds run. What the Slicer tests need besides the lean
installation comes here, the first time: Python packages (extra `slicertest`), and on Debian, as root, the few
system libraries. Where that cannot be, it says so loudly and skips; with PASTA_NO_SKIP=1, as in CI, it fails.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Folders whose tests need the headless host; tests/conftest.py knows the same.
SLICER_FOLDERS = (
    "tests/slicer_host",
    "tests/slicer_extension/scene",
    "tests/slicer_extension/module",
)
LIBRARIES = (
    "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libglib2.0-0 libfontconfig1 libfreetype6 libxkbcommon0 "
    "libdbus-1-3 libx11-6 fonts-dejavu-core"
)
# A real PACS and a real validator for the tests of DICOM, which skip without them
PEERS = {"Orthanc": "orthanc orthanc-dicomweb", "dciodvfy": "dicom3tools"}
HEADLESS = {"QT_QPA_PLATFORM": "offscreen", "VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow"}
# Draws for real: a missing OpenGL driver shows only then.
PROBE = """
from PySide6 import QtWidgets
QtWidgets.QApplication([])
import slicer, vtk
window = vtk.vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(16, 16)
window.AddRenderer(vtk.vtkRenderer())
window.Render()
pixels = vtk.vtkUnsignedCharArray()
assert window.GetPixelData(0, 0, 15, 15, 0, pixels, 0) and pixels.GetNumberOfTuples() == 256
"""


def say(text: str) -> None:
    """Print at once, so that it stands before what pytest prints."""
    print(text, flush=True)


def pytest(*arguments: str) -> int:
    """Run pytest in its own process and return its status."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False
    ).returncode


def install_packages() -> bool:
    """Bring the extra `slicertest` into this environment, once."""
    stamp = Path(sys.prefix) / ".stamp-slicer"
    sources = [ROOT / name for name in ("constraints.txt", "pyproject.toml")]
    if stamp.exists() and all(stamp.stat().st_mtime >= each.stat().st_mtime for each in sources):
        return True
    say(
        "set-up: packages of the Slicer tests (slicer-core, vtk, PySide6), once; about 1 GB on disk"
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "-c", "constraints.txt", "-e", ".[slicertest]"], cwd=ROOT, check=False
    )
    if done.returncode == 0:
        stamp.touch()
    return done.returncode == 0


def draws() -> bool:
    """Whether Qt starts and VTK draws here without a screen."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **HEADLESS},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def install_libraries() -> bool:
    """Bring the system libraries, or say how."""
    if draws():
        return True
    command = f"apt-get update && apt-get install -y --no-install-recommends {LIBRARIES}"
    if Path("/etc/debian_version").exists() and os.geteuid() == 0:
        say("set-up: system libraries of the Slicer tests, once")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            ["bash", "-c", f"({command}) >/dev/null"],
            env=quiet,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if draws():
            return True
    say(f"Qt or VTK cannot draw here. On Debian and Ubuntu:\n  sudo sh -c '{command}'")
    return False


def install_peers() -> None:
    """Bring the programs that the DICOM tests talk to, or say how."""
    missing = [packages for program, packages in PEERS.items() if not shutil.which(program)]
    if not missing:
        return
    words = " ".join(missing)
    command = f"apt-get update && apt-get install -y --no-install-recommends {words}"
    if Path("/etc/debian_version").exists() and os.geteuid() == 0:
        say(f"set-up: {words}, once")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["bash", "-c", f"({command}) >/dev/null"], env=quiet, check=False)
    if not all(shutil.which(program) for program in PEERS):
        say(
            f"Tests with a real PACS will be skipped. On Debian and Ubuntu:\n  sudo sh -c '{command}'"
        )


def slicer_files() -> list[Path]:
    """All test files that need the host, in a fixed order."""
    return sorted(path for folder in SLICER_FOLDERS for path in (ROOT / folder).rglob("test_*.py"))


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part arguments into paths (with ::names) and the rest."""
    paths = [
        each
        for each in arguments
        if not each.startswith("-") and Path(ROOT, each.split("::")[0]).exists()
    ]
    return paths, [each for each in arguments if each not in paths]


def chosen(files: list[Path], paths: list[str]) -> list[str]:
    """The Slicer test files that the paths name, with their ::names; all without paths."""
    if not paths:
        return [str(path.relative_to(ROOT)) for path in files]
    found = []
    for path in paths:
        whole = Path(ROOT, path.split("::")[0]).resolve()
        if whole in files:
            found.append(path)
        else:
            found += [str(each.relative_to(ROOT)) for each in files if whole in each.parents]
    return found


def needs_main(paths: list[str]) -> bool:
    """Whether a path names anything besides the Slicer tests."""
    folders = [ROOT / folder for folder in SLICER_FOLDERS]
    whole = [Path(ROOT, path.split("::")[0]).resolve() for path in paths]
    return not paths or any(
        not any(path.is_relative_to(each) for each in folders) for path in whole
    )


def run_slicer(arguments: list[str]) -> int:
    """Run the Slicer tests, each file alone; all of them also after a failure."""
    paths, options = split(arguments)
    files = chosen(slicer_files(), paths)
    if not files:
        return 0
    if not (install_packages() and install_libraries()):
        say(f"\n*** SKIPPED: {len(files)} files of the Slicer extension's tests; see above ***\n")
        return 1 if os.environ.get("PASTA_NO_SKIP") else 0
    failed = []
    for number, file in enumerate(files, 1):
        say(f"--- Slicer {number}/{len(files)}: {file}")
        status = pytest(
            file, "-m", "slicer and not slow and not gpu", "-q", "--no-header", *options
        )
        if status not in (0, 5):  # 5: options left no test of this file
            failed.append(f"{file} (status {status})")
            if status == 2:  # interrupted
                break
    if failed:
        say("FAILED: " + ", ".join(failed))
    return int(bool(failed))


def main(arguments: list[str]) -> int:
    """Run what the first argument asks for."""
    kind, options = arguments[0], arguments[1:]
    paths, _ = split(options)
    status = 0
    if kind == "all" and needs_main(paths):
        install_peers()
        status = pytest("-m", "not slow and not gpu and not slicer", *options)
        if status == 5 and paths and chosen(slicer_files(), paths):
            status = 0
    return status or run_slicer(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
