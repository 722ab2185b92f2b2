import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="the server extra is not installed")

_spec = importlib.util.spec_from_file_location("serving", Path(__file__).with_name("serving.py"))
_serving = importlib.util.module_from_spec(_spec)
sys.modules["serving"] = _serving
_spec.loader.exec_module(_serving)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return _serving.save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, models):
    """The one server of all tests; tests add images of their own."""
    studies = tmp_path_factory.mktemp("studies")
    _serving.save_ct(studies / "ct.nii.gz", _serving.body())
    _serving.save_ct(studies / "large.nii.gz", _serving.body((140, 130, 100)))
    running = _serving.Server(
        studies,
        models,
        tmp_path_factory.mktemp("log") / "server.log",
        PASTA_QUEUE="2",
        PASTA_MAX_UPLOAD_MB="8",
    )
    yield running
    running.stop()
