"""The four tasks through a real server."""

import json
import math
import time
from pathlib import PurePath

import nibabel as nib
import numpy as np
import pytest
from serving import LIVER, MASK_MODELS, MODELS, Server, body, dice, parts_of, save_ct

from pasta.geometry import Volume
from pasta.io import read_labelmap, write_labelmap
from pasta.store import image_id_of

COMMON = {"schema", "model", "input_sha256", "warnings", "seconds", "created", "notice", "software"}


def mask_of(response, tmp_path):
    document, filename, content = parts_of(response)
    path = tmp_path / filename
    path.write_bytes(content)
    return document, read_labelmap(path), path


def test_info_lists_the_tasks_and_their_labels(server):
    info = server.get("/info/").json()
    assert set(info["models"]) == set(MODELS)
    assert info["models"]["pasta_segmentation"]["labels"]["liver_tumor"] == 12
    assert info["models"]["pasta_segmentation"]["type"] == "segmentation"
    assert all(model["ready"] for model in info["models"].values())
    assert info["datastore"]["total"] >= 2
    assert info["trainers"] == {}


@pytest.mark.parametrize("model", MASK_MODELS)
def test_mask_and_json_come_in_one_answer(server, model, tmp_path):
    response = server.infer(model, image="ct")
    assert response.status_code == 200, response.text
    document, labelmap, _ = mask_of(response, tmp_path)
    assert set(document) >= COMMON
    assert len(document["input_sha256"]) == 64
    assert document["model"][0]["weights_sha256"]
    assert labelmap.voxels.shape == body().shape
    assert dice(labelmap.voxels == LIVER, body() > -500) > 0.95


@pytest.mark.parametrize("model", ["pasta_screening", "pasta_report"])
def test_screening_and_report_answer_json(server, model):
    response = server.infer(model, image="ct")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) >= COMMON
    assert "NaN" not in response.text
    assert "Infinity" not in response.text


def test_screening_gives_a_probability_for_the_organ_that_is_there(server):
    document = server.infer("pasta_screening", image="ct").json()
    text = json.dumps(document["organs"])
    assert '"liver"' in text
    probabilities = [value for key, value in walk(document["organs"]) if key == "probability"]
    assert any(p is not None and 0 <= p <= 1 and math.isfinite(p) for p in probabilities)
    assert any(p is None for p in probabilities)  # no kidney in this volume: no invented number


def walk(value, key=""):
    yield key, value
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from walk(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, key)


AFFINES = {
    "LPS": np.diag([-3.0, -3.0, 3.0, 1.0]),
    "mirrored": np.diag([3.0, -3.0, 3.0, 1.0]),
    "upside down": np.diag([-3.0, -3.0, -3.0, 1.0]),
    "permuted": np.array([[0, 0, 3.0, -40], [-3.0, 0, 0, 50], [0, 3.0, 0, 7], [0, 0, 0, 1]]),
    "anisotropic": np.diag([2.5, -2.5, 4.0, 1.0]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_the_mask_lies_on_the_grid_of_the_ct_whatever_its_axes(server, name, tmp_path):
    ct = save_ct(tmp_path / "ct.nii.gz", body(), AFFINES[name])
    response = server.infer("pasta_segmentation", files={"file": ct})
    assert response.status_code == 200, response.text
    _, labelmap, path = mask_of(response, tmp_path)
    np.testing.assert_allclose(nib.load(path).affine, AFFINES[name], atol=1e-4)
    least = 0.95 if name != "anisotropic" else 0.85  # 4 mm slices through a network of 3 mm
    assert dice(labelmap.voxels == LIVER, body() > -500) > least


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".seg.nrrd"])
def test_the_mask_comes_in_the_format_asked_for(server, extension, tmp_path):
    params = {"result_extension": extension, "result_dtype": "uint8"}  # as the stock client
    response = server.infer("pasta_segmentation", params, image="ct")
    _, labelmap, path = mask_of(response, tmp_path)
    assert path.name.endswith(extension)
    assert dice(labelmap.voxels == LIVER, body() > -500) > 0.95
    if extension != ".nii.gz":
        assert path.read_bytes().startswith(b"NRRD")
        assert (b"Segment0_ID" in path.read_bytes()) == (extension == ".seg.nrrd")


def test_output_chooses_the_parts_of_the_answer(server):
    only_json = server.infer("pasta_segmentation", image="ct", output="json")
    assert only_json.json()["schema"].startswith("pasta-aid/segmentation/")
    only_image = server.infer("pasta_segmentation", image="ct", output="image")
    assert only_image.content[:2] == b"\x1f\x8b"
    refused = server.infer("pasta_report", image="ct", output="image")
    assert refused.status_code == 422
    assert "pasta_diagnosis" in refused.json()["detail"]


def test_the_evidence_map_is_an_image_on_the_grid_of_the_ct(server, tmp_path):
    response = server.infer("pasta_screening", {"evidence": True}, image="ct", output="image")
    assert response.status_code == 200, response.text
    (tmp_path / "evidence.nii.gz").write_bytes(response.content)
    evidence = nib.load(tmp_path / "evidence.nii.gz")
    assert evidence.shape == body().shape
    voxels = np.asarray(evidence.dataobj)
    assert np.isfinite(voxels).all()
    assert 0 <= voxels.min() < voxels.max() <= 1
    refused = server.infer("pasta_screening", image="ct", output="image")
    assert refused.status_code == 422
    assert "evidence" in refused.json()["detail"]


def test_organs_restrict_the_labels(server, tmp_path):
    response = server.infer("pasta_segmentation", {"organs": ["kidney"]}, image="ct")
    _, labelmap, _ = mask_of(response, tmp_path)
    assert LIVER not in np.unique(labelmap.voxels)
    for organs in ("all", ["all"], "liver, kidney"):
        response = server.infer("pasta_segmentation", {"organs": organs}, image="ct")
        assert response.status_code == 200


def test_a_kept_mask_is_the_input_of_the_report(server):
    params = {"save_label": True, "label_tag": "original"}
    document, _, _ = parts_of(server.infer("pasta_segmentation", params, image="ct"))
    assert document["label"] == "ct@pasta_segmentation"
    given = {"label_tag": "original", "reader": "pasta_segmentation"}
    report = server.infer("pasta_report", given, image="ct").json()
    assert "segmentation" not in report["seconds"]
    assert [label["name"] for label in report["labels"]] == ["liver"]
    missing = server.infer("pasta_report", {"label_tag": "final"}, image="ct")
    assert missing.status_code == 404
    assert "no label 'final'" in missing.json()["detail"]


def test_an_uploaded_mask_is_the_input_of_the_report(server, tmp_path):
    lesion = np.zeros(body().shape, np.uint8)
    lesion[10:20, 12:22, 14:22] = 12
    affine = np.diag([-3.0, -3.0, 3.0, 1.0])
    write_labelmap(Volume(lesion, affine), tmp_path / "mask.nii.gz")
    response = server.infer("pasta_report", image="ct", files={"label": tmp_path / "mask.nii.gz"})
    assert response.status_code == 200, response.text
    assert [label["name"] for label in response.json()["labels"]] == ["liver_tumor"]
    write_labelmap(Volume(lesion[1:], affine), tmp_path / "mask.nii.gz")
    refused = server.infer("pasta_report", image="ct", files={"label": tmp_path / "mask.nii.gz"})
    assert refused.status_code == 422


def test_a_session_holds_a_ct_for_a_while(server, tmp_path):
    ct = save_ct(tmp_path / "Doe^John.nii.gz", body())
    files = [("files", (ct.name, ct.read_bytes()))]
    created = server.request("PUT", "/session/", files=files).json()
    assert "path" not in json.dumps(created)
    session = created["session_id"]
    response = server.infer("pasta_segmentation", session_id=session, output="json")
    assert response.status_code == 200, response.text
    assert server.request("DELETE", f"/session/{session}").status_code == 200
    gone = server.infer("pasta_segmentation", session_id=session)
    assert gone.status_code == 404
    assert server.get(f"/session/{session}").status_code == 404
    assert "Doe" not in server.log.read_text(errors="replace")


def test_a_dicom_series_goes_through_a_session_and_through_the_store(server, real_data):
    slices = sorted((real_data / "dicom" / "sts_044" / "ct").iterdir())[:16]
    files = [("files", (path.name, path.read_bytes())) for path in slices]
    session = server.request("PUT", "/session/", files=files).json()["session_id"]
    series = server.studies / "series"
    series.mkdir()
    for path in slices:
        (series / path.name).write_bytes(path.read_bytes())
    image = image_id_of(PurePath("series"), folder=True)
    params = {"organs": ["bone"]}
    documents = [
        server.infer("pasta_segmentation", params, session_id=session, output="json").json(),
        server.infer("pasta_segmentation", params, image=image, output="json").json(),
    ]
    assert documents[0]["input_sha256"] == documents[1]["input_sha256"]
    download = server.get("/datastore/image", params={"image": image})
    assert download.content[:2] == b"\x1f\x8b"
    server.request("DELETE", f"/session/{session}")
    assert server.leftovers() == []


def test_a_real_ct_keeps_its_grid(server, real_data, tmp_path):
    whole = nib.load(real_data / "ct" / "ts_example" / "ct.nii.gz")
    crop = whole.slicer[20:84, 20:70, 40:72]  # liver and kidneys
    nib.save(crop, tmp_path / "ct.nii.gz")
    response = server.infer("pasta_diagnosis", files={"file": tmp_path / "ct.nii.gz"})
    assert response.status_code == 200, response.text
    document, labelmap, path = mask_of(response, tmp_path)
    assert labelmap.voxels.shape == crop.shape
    np.testing.assert_allclose(nib.load(path).affine, crop.affine, atol=1e-3)
    assert document["report"]["lesions"] == []  # this model labels liver only


@pytest.mark.parametrize("model", ["pasta_segmentation", "pasta_screening"])
def test_batch_inference_keeps_its_results(tmp_path, models, model):
    studies = tmp_path / "studies"
    for name in ("a", "b"):
        save_ct(studies / f"{name}.nii.gz", body(seed=ord(name)))
    server = Server(studies, models, tmp_path / "log")
    try:
        started = server.request("POST", f"/batch/infer/{model}", json={"save_label": True})
        assert started.status_code == 200, started.text
        deadline = time.monotonic() + 300
        while server.get("/batch/infer").json()["status"] in ("SUBMITTED", "RUNNING"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert server.get("/batch/infer").json()["status"] == "DONE"
        server.get("/datastore/image/info", params={"image": "a"})
        for name in ("a", "b"):
            if model == "pasta_segmentation":
                query = {"label": f"{name}@{model}", "tag": "original"}
                assert server.get("/datastore/label", params=query).status_code == 200
            else:
                info = server.get("/datastore/image/info", params={"image": name}).json()
                assert info[f"result.{model}"]["schema"].startswith("pasta-aid/screening/")
    finally:
        server.stop()
