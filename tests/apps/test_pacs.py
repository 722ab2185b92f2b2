"""`monailabel start_server --studies http://.../dicom-web` with a real Orthanc."""

import importlib.util
import io
import json
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

from serving import Server

from pasta.dicom.segmentation import read_segmentation
from pasta.geometry import Volume
from pasta.io import read_volume, write_labelmap
from pasta.report.reader import ReaderReport

_spec = importlib.util.spec_from_file_location(
    "orthanc", Path(__file__).parents[1] / "dicom" / "orthanc.py"
)
_orthanc = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_orthanc)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, real_data):
    running = _orthanc.Orthanc(tmp_path_factory.mktemp("orthanc"))
    running.start()
    running.upload(real_data / "dicom" / "sts_044" / "ct")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def pacs_server(orthanc, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pacs-server")
    user, password = orthanc.auth
    running = Server(
        orthanc.url,
        models,
        folder / "server.log",
        PASTA_PACS_USER=user,
        PASTA_PACS_PASSWORD=password,
        PASTA_PACS_CACHE=str(folder / "cache"),
    )
    yield running
    running.stop()


def objects(orthanc, modality):
    return [pydicom.dcmread(io.BytesIO(content)) for content in orthanc.instances(modality)]


def test_a_ct_of_the_pacs_is_segmented_corrected_and_sent_back_after_an_outage(
    pacs_server, orthanc, real_data, tmp_path
):
    listed = pacs_server.get("/datastore/", params={"output": "all"}).json()
    (image,) = listed["objects"]
    answer = pacs_server.infer("pasta_segmentation", image=image, output="json")
    assert answer.ok, answer.text
    (ct, *_) = objects(orthanc, "CT")
    volume = read_volume(real_data / "dicom" / "sts_044" / "ct")
    voxels = np.zeros(volume.voxels.shape, np.uint8)
    voxels[60:90, 100:120, 20:30] = 20
    write_labelmap(Volume(voxels, volume.affine), tmp_path / "label.nii.gz")
    report = ReaderReport.empty()
    report.add_lesion("bone_metastasis")
    orthanc.stop()
    saved = pacs_server.request(
        "PUT",
        "/datastore/label",
        params={"image": image, "tag": "final"},
        files={
            "label": ("label.nii.gz", (tmp_path / "label.nii.gz").read_bytes()),
            "params": (None, json.dumps({"reader": "R1", "report": report.to_document()})),
        },
    )
    assert saved.ok, saved.text  # acknowledged, though the PACS is away
    time.sleep(2)
    orthanc.start()
    until = time.monotonic() + 40
    while not (orthanc.instances("SEG") and orthanc.instances("SR")) and time.monotonic() < until:
        time.sleep(0.5)
    (seg,), (sr,) = objects(orthanc, "SEG"), objects(orthanc, "SR")
    seg.save_as(tmp_path / "seg.dcm", False)
    back = read_segmentation(tmp_path / "seg.dcm", volume.grid)
    assert np.array_equal(back.voxels, voxels)
    assert seg.StudyInstanceUID == sr.StudyInstanceUID == ct.StudyInstanceUID
    log = pacs_server.log.read_text()
    assert "outbox: sent 1 submission(s)" in log
    for secret in (ct.PatientID, ct.StudyInstanceUID, ct.SeriesInstanceUID, orthanc.auth[1]):
        assert str(secret) not in log
