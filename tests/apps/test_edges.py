"""Everything wrong that a client can send gets a 4xx with a sentence, and leaves nothing behind."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from serving import MODELS, body, save_ct

from pasta.geometry import Volume
from pasta.io import write_labelmap

AFFINE = np.diag([-3.0, -3.0, 3.0, 1.0])


def refused(response, status, *words):
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    for word in words:
        assert word in detail
    assert len(detail) < 400
    return detail


def nifti(path, voxels, affine=AFFINE):
    image = nib.Nifti1Image(voxels, None)
    image.header.set_sform(affine, code=1)
    image.header.set_qform(None, code=0)
    nib.save(image, path)
    return path


def make_truncated(path):
    content = save_ct(path, body()).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def make_damaged(path):
    content = bytearray(gzip.decompress(save_ct(path, body()).read_bytes()))
    content[:40] = b"\xff" * 40
    path.write_bytes(gzip.compress(bytes(content), 1))


def make_nan(path):
    voxels = body().astype(np.float32)
    voxels[3, 3, 3] = np.nan
    save_ct(path, voxels)


def make_singular(path):
    save_ct(path, body())
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    nifti(path, data, np.diag([3.0, 0.0, 3.0, 1.0]))


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_bytes(b"this is no image at all" * 50), "image.nii.gz"),
    "truncated": (make_truncated, "runcated"),
    "damaged": (make_damaged, "image.nii.gz"),
    "2-D": (lambda path: save_ct(path, body()[:, :, 0]), "3-D"),
    "4-D": (lambda path: save_ct(path, np.stack([body()] * 2, axis=-1)), "3-D"),
    "NaN": (make_nan, "finite"),
    "singular": (make_singular, "affine"),
    "normalised": (lambda path: save_ct(path, np.clip(body(), 0, 1).astype(np.float32)), "HU"),
    "huge": (lambda path: save_ct(path, (body() * 1e6).astype(np.float32)), "HU"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_refused_with_its_reason(server, kind, tmp_path):
    make, word = BAD[kind]
    path = tmp_path / "image.nii.gz"
    make(path)
    before = server.get("/pasta/images").json()
    refused(server.infer("pasta_segmentation", files={"file": path}), 422, word)
    upload = {"file": (path.name, path.read_bytes())}
    refused(server.request("PUT", "/datastore/image", files=upload), 422, word)
    assert server.get("/pasta/images").json() == before
    assert server.leftovers() == []


@pytest.mark.parametrize("kind", ["truncated", "NaN", "4-D"])
def test_a_bad_ct_in_the_studies_folder_is_refused_with_its_reason(server, kind):
    make, word = BAD[kind]
    path = server.studies / f"bad-{kind}.nii.gz"
    make(path)
    refused(server.infer("pasta_screening", image=f"bad-{kind}"), 422, word.replace("image", "bad"))
    path.unlink()


def test_a_doubtful_ct_is_a_warning_in_the_result(server, tmp_path):
    few = save_ct(tmp_path / "few.nii.gz", body()[:, :, :6], np.diag([-3.0, -3.0, 9.0, 1.0]))
    document = server.infer("pasta_segmentation", files={"file": few}, output="json").json()
    text = " ".join(document["warnings"])
    assert "slices" in text
    assert "9.0 mm" in text


@pytest.mark.parametrize("model", MODELS)
def test_an_unknown_image_is_refused_by_every_task(server, model):
    refused(server.infer(model, image="nobody"), 404, "nobody")
    refused(server.infer(model), 422, "image")


def test_unknown_names_are_refused(server):
    refused(server.infer("deepedit", image="ct"), 404, "deepedit", "pasta_segmentation")
    refused(server.infer("pasta_segmentation", session_id="0" * 32), 404, "session")
    refused(server.infer("pasta_segmentation", {"organs": ["spleen"]}, image="ct"), 422, "spleen")
    refused(server.infer("pasta_segmentation", {"organs": 7}, image="ct"), 422, "organs")
    refused(server.infer("pasta_segmentation", image="ct", output="pdf"), 422, "output")
    refused(server.request("POST", "/activelearning/epistemic", json={}), 404, "epistemic", "first")
    refused(server.request("POST", "/scoring/dice", json={}), 404, "dice")
    refused(server.request("POST", "/train/x", json={}), 404, "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "x"),
        ("image", "/etc/passwd"),
        ("path", "/x"),
        ("bundle_path", "/x"),
        ("logging", "ERROR"),
        ("device", "cuda:99"),
        ("device", "tpu"),
        ("result_extension", "/.."),
        ("result_dtype", "int64"),
        ("evidence", "perhaps"),
        ("job", "../x"),
        ("label_tag", "../../x"),
        ("reader", "a/b"),
        ("sleep", 9),
    ],
)
def test_a_parameter_that_is_not_allowed_is_named(server, name, value):
    refused(server.infer("pasta_segmentation", {name: value}, image="ct"), 422, name)


@pytest.mark.parametrize("params", ["{", "[1]", "3", "null null", '{"organs": NaN', "[" * 9000])
def test_params_that_are_not_an_object_are_refused(server, params):
    response = server.request(
        "POST",
        "/infer/pasta_segmentation",
        params={"image": "ct"},
        files={"params": (None, params)},
    )
    refused(response, 422, "params")


def test_a_suffix_that_is_not_read_is_refused(server, tmp_path):
    for name in ("ct", "ct.png", "ct.exe", "x.nii.gz.exe"):
        (tmp_path / name).write_bytes(b"x" * 100)
        refused(server.infer("pasta_segmentation", files={"file": tmp_path / name}), 422, "suffix")
    assert server.leftovers() == []


def test_labels_are_checked_before_they_are_accepted(server, tmp_path):
    path = tmp_path / "label.nii.gz"

    def put(**query):
        files = {"label": (path.name, path.read_bytes()), "params": (None, '{"reader": "ann"}')}
        query = {"image": "ct", "tag": "checked", **query}
        return server.request("PUT", "/datastore/label", params=query, files=files)

    shape = body().shape
    write_labelmap(Volume(np.full(shape, 26, np.uint8), AFFINE), path)
    refused(put(), 422, "26")
    write_labelmap(Volume(np.ones((4, 5, 6), np.uint8), AFFINE), path)
    refused(put(), 422)
    shifted = AFFINE.copy()
    shifted[2, 3] = 30
    write_labelmap(Volume(np.ones(shape, np.uint8), shifted), path)
    refused(put(), 422)
    path.write_bytes(b"")
    refused(put(), 422, "empty")
    write_labelmap(Volume(np.ones(shape, np.uint8), AFFINE), path)
    refused(put(image="nobody"), 404, "nobody")
    refused(put(tag="a/b"), 422, "tag")
    listed = server.get("/pasta/images").json()["images"]
    assert not [1 for image in listed for label in image["labels"] if label["tag"] == "checked"]
    assert put().json()["version"] == 1
    assert put().json()["version"] == 2
    query = {"label": "ct@ann", "tag": "checked"}
    assert server.get("/datastore/label", params=query).content[:2] == b"\x1f\x8b"
    assert server.get("/datastore/label/info", params=query).json()["version"] == 2
    assert server.leftovers() == []


def test_an_upload_that_is_too_large_is_stopped(server, tmp_path):
    path = tmp_path / "big.nii.gz"
    path.write_bytes(b"\0" * (9 << 20))  # PASTA_MAX_UPLOAD_MB=8
    refused(server.infer("pasta_segmentation", files={"file": path}), 413, "8 MB")

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.nii"\r\n\r\n'
        yield from (b"\0" * (1 << 20) for _ in range(12))  # no Content-Length

    response = server.request(
        "PUT",
        "/datastore/image",
        data=chunks(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    refused(response, 413, "8 MB")
    assert server.leftovers() == []


def test_uploads_that_share_a_stem_stay_apart(server, tmp_path):
    ids = []
    for seed, name in enumerate(["1.2.840.113.nii.gz", "1.9.9.9.nii.gz"]):
        path = save_ct(tmp_path / name, body(seed=seed))
        files = {"file": (name, path.read_bytes())}
        ids.append(server.request("PUT", "/datastore/image", files=files).json()["image"])
    assert ids == ["1.2.840.113", "1.9.9.9"]
    for image, name in zip(ids, ["1.2.840.113.nii.gz", "1.9.9.9.nii.gz"], strict=True):
        download = server.get("/datastore/image", params={"image": image})
        assert download.content == (tmp_path / name).read_bytes()
    files = {"file": ("x.nii.gz", (tmp_path / "1.9.9.9.nii.gz").read_bytes())}
    taken = server.request("PUT", "/datastore/?image=1.2.840.113", files=files)
    refused(taken, 409, "taken")
    slash = server.request("PUT", "/datastore/image?image=4: CT CHEST/ABD", files=files)
    assert slash.status_code == 200


def test_next_sample_works_twice_within_a_second(server):
    for strategy in ("first", "random"):
        for _ in range(3):
            response = server.request(
                "POST", f"/activelearning/{strategy}", json={"client_id": "a"}
            )
            assert response.status_code == 200, response.text
            assert response.json()["id"]


def test_every_answer_with_a_number_is_json_without_nan(server):
    for path in ("/info/", "/pasta/jobs", "/pasta/images", "/datastore/?output=all", "/datastore/"):
        json.loads(server.get(path).text, parse_constant=lambda name: pytest.fail(name))
