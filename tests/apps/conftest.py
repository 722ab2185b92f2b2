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


_spec = importlib.util.spec_from_file_location("studying", Path(__file__).with_name("studying.py"))
_studying = importlib.util.module_from_spec(_spec)
sys.modules["studying"] = _studying
_spec.loader.exec_module(_studying)


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reader-studies")


@pytest.fixture(scope="session")
def study_images(tmp_path_factory):
    """Nine small CTs: one for training, eight to read."""
    folder = tmp_path_factory.mktemp("study-images")
    for number in range(9):
        _serving.save_ct(folder / f"case-{number}.nii.gz", _serving.body((30, 30, 30), number))
    return folder


@pytest.fixture(scope="session")
def codes(study_folder, study_images, models):
    """Login codes of the study `mini`, by reader."""
    images = [f"case-{number}" for number in range(9)]
    return _studying.make_study(study_folder / "mini", models, images, training=["case-8"])


@pytest.fixture(scope="session")
def study_server(study_images, study_folder, codes, models, tmp_path_factory):
    """A server that runs studies; tests add studies of their own beside `mini`."""
    log = tmp_path_factory.mktemp("study-log") / "server.log"
    running = _serving.Server(study_images, models, log, **_studying.environment(study_folder))
    yield running
    running.stop()
