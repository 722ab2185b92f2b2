"""The module in the headless host, against a real server with real CTs."""

import shutil

import pytest

from . import harness

CASES = ("crlm_1004", "crlm_1006", "ts_example")


@pytest.fixture(scope="session")
def studies(tmp_path_factory, real_data):
    folder = tmp_path_factory.mktemp("studies")
    for case in CASES:
        source = real_data / "ct" / case / "ct.nii.gz"
        if not source.is_file():
            pytest.skip(f"no real CT of {case}")
        shutil.copy(source, folder / f"{case}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory, studies):
    pytest.importorskip("monailabel", reason="the server extra is not installed")
    models = harness.save_models(tmp_path_factory.mktemp("models"))
    log = tmp_path_factory.mktemp("log") / "server.log"
    running = harness.serving().Server(studies, models, log)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def desk(tmp_path_factory, server):
    pytest.importorskip("slicer", reason="needs slicer-core")
    pytest.importorskip("PySide6", reason="needs PySide6-Essentials")
    desk = harness.Desk(tmp_path_factory.mktemp("reader"), server.url)
    yield desk
    desk.close()


@pytest.fixture(autouse=True)
def no_faults(request):
    """No slot, observer or timer may fail, and no name may be unknown to Qt."""
    yield
    if "desk" in request.fixturenames:
        assert request.getfixturevalue("desk").faults() == []
