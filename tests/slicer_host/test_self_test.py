"""The self-test that ships for a real Slicer passes in the host: with and without a server."""

import shutil
import sys
import unittest
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials")

from tests.slicer_host import HOST_ERRORS, REPORT, boot, load_module

MODULE = Path(__file__).resolve().parents[2] / "slicer_extension" / "PASTAAid"


@pytest.fixture(scope="module")
def self_test(tmp_path_factory):
    boot(size=(1400, 900))
    import qt

    qt.QSettings().setValue("PASTAAid/folder", str(tmp_path_factory.mktemp("module")))
    load_module(MODULE / "PASTAAid.py")
    sys.path.append(str(MODULE / "Testing" / "Python"))
    import PASTAAidSelfTest

    return PASTAAidSelfTest


@pytest.fixture(scope="module")
def server(tmp_path_factory, real_data):
    from tests.slicer_extension.module import harness

    folder = tmp_path_factory.mktemp("server")
    studies = folder / "studies"
    studies.mkdir()
    shutil.copy(real_data / "ct" / "ts_example" / "ct.nii.gz", studies / "ts_example.nii.gz")
    models = harness.save_models(tmp_path_factory.mktemp("models"))
    running = harness.serving().Server(studies, models, folder / "server.log")
    yield running
    running.stop()


def failures(suite):
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun
    told = [text for _, text in (*result.failures, *result.errors)]
    told += [str(error[1]) for error in HOST_ERRORS]
    return told + [f"{kind}: {names}" for kind, names in REPORT.items() if names], result.skipped


def test_the_self_test_passes_without_a_server(self_test):
    told, skipped = failures(unittest.defaultTestLoader.loadTestsFromModule(self_test))
    assert told == []
    assert len(skipped) <= 1


def test_the_self_test_reaches_a_real_server(self_test, server, monkeypatch):
    monkeypatch.setenv("PASTA_SERVER", server.url)
    suite = unittest.TestSuite([self_test.PASTAAidSelfTest("test_serverAnswers")])
    assert failures(suite) == ([], [])


def test_a_reload_of_the_scene_leaves_the_module_working(self_test):
    import slicer

    slicer.util.selectModule("PASTAAid")
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    told, _ = failures(unittest.defaultTestLoader.loadTestsFromModule(self_test))
    assert told == []
