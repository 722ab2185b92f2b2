"""Fixtures that all tests may use."""

import os
from pathlib import Path

import pytest

SLICER_FOLDERS = [
    Path(__file__).parent / name
    for name in ("slicer_host", "slicer_extension/scene", "slicer_extension/module")
]


def _needs_slicer(path):
    return any(path.is_relative_to(folder) for folder in SLICER_FOLDERS)


def pytest_ignore_collect(collection_path, config):
    # importing them changes PySide6 for the whole process, so "not slicer" must not even look inside
    if "not slicer" in config.getoption("markexpr") and _needs_slicer(collection_path):
        return True
    # the host's own modules are no doctests
    if SLICER_FOLDERS[0] in collection_path.parents and not collection_path.name.startswith(
        "test_"
    ):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if _needs_slicer(item.path):
            item.add_marker(pytest.mark.slicer)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Let CI fail where a Slicer test would skip; only real CT may be absent there."""
    report = yield
    strict = os.environ.get("PASTA_NO_SKIP") and Path(os.environ.get("PASTA_DATA", "")).is_dir()
    if (
        report.skipped
        and strict
        and item.get_closest_marker("slicer")
        and not hasattr(report, "wasxfail")
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped, which PASTA_NO_SKIP forbids: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def real_data():
    """Folder of real CT: the environment variable PASTA_DATA, else ../shared/data."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PASTA_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real CT: PASTA_DATA names no folder and ../shared/data is absent")
    return folder
