"""What was possible on a stock server must not be possible here."""

import io
import tarfile
import zipfile

import pytest
from serving import body, save_ct


def tree(server):
    parent = server.studies.parent
    return sorted(
        str(path)
        for path in parent.rglob("*")
        if ".pasta" not in path.parts or "labels" in path.parts
    )


@pytest.fixture
def ct(tmp_path):
    return {"file": ("x.nii.gz", save_ct(tmp_path / "x.nii.gz", body()).read_bytes())}


@pytest.mark.parametrize("image", ["../x", "/tmp/x", "a/../../x", "..", "..\\x", "x\0y"])
def test_no_image_is_written_or_read_outside_the_store(server, ct, image):
    before = tree(server)
    written = server.request("PUT", "/datastore/image", params={"image": image}, files=ct)
    assert written.status_code == 422
    for method, path in (
        ("GET", "/datastore/image"),
        ("HEAD", "/datastore/image"),
        ("GET", "/datastore/image/info"),
    ):
        assert server.request(method, path, params={"image": image}).status_code == 422
    assert server.request("DELETE", "/datastore/image", params={"id": image}).status_code == 422
    assert server.infer("pasta_segmentation", image=image).status_code == 422
    assert tree(server) == before


def test_an_existing_path_is_no_image(server):
    for image in (str(server.studies / "ct.nii.gz"), "ct.nii.gz", "./ct.nii.gz", "/etc/passwd"):
        response = server.infer("pasta_screening", image=image)
        assert response.status_code in (404, 422)


@pytest.mark.parametrize("tag", ["../../x", "/x", "a/b", ".."])
def test_no_label_is_written_outside_the_store(server, ct, tag):
    before = tree(server)
    files = {"label": ct["file"]}
    query = {"image": "ct", "tag": tag}
    assert server.request("PUT", "/datastore/label", params=query, files=files).status_code == 422
    for label in ("ct", "../ct", "ct@../x"):
        query = {"label": label, "tag": tag}
        assert server.get("/datastore/label", params=query).status_code in (404, 422)
        query = {"id": label, "tag": tag}
        response = server.request("DELETE", "/datastore/label", params=query)
        assert response.status_code in (404, 422)
    assert tree(server) == before


def test_archives_are_not_unpacked_in_sessions(server):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("../../escaped.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    files = [("files", ("x.tar", packed.getvalue()))]
    response = server.request("PUT", "/session/", params={"uncompress": True}, files=files)
    assert response.status_code == 422
    assert server.request("PUT", "/session/", files=files).status_code == 422  # no CT suffix
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("sitecustomize.py", "print('run')")
    response = server.request("PUT", "/session/", files=[("files", ("x.zip", zipped.getvalue()))])
    assert response.status_code == 422
    assert server.leftovers() == []


@pytest.mark.parametrize("session", ["..%2f..%2fx", "%2e%2e%2f", "x" * 32, "meta.info"])
def test_a_session_id_is_not_a_path(server, session):
    for method in ("GET", "DELETE"):
        assert server.request(method, f"/session/{session}").status_code in (404, 405)
    assert server.infer("pasta_segmentation", session_id=session).status_code == 404


def test_training_takes_no_bundle_path(server):
    for path in ("/train/x", "/train/", "/train/pasta_segmentation"):
        response = server.request("POST", path, json={"bundle_path": "/tmp"})
        assert response.status_code in (404, 422)
    assert server.get("/train/").status_code == 404  # nothing was started


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/proxy/dicom/..%2f..%2fsystem"),
        ("POST", "/proxy/dicom/wado/x"),
        ("PUT", "/model/pasta_segmentation"),
        ("DELETE", "/model/pasta_segmentation"),
        ("POST", "/infer/wsi/pasta_segmentation"),
        ("POST", "/reload"),
        ("POST", "//reload"),
        ("GET", "/ohif/"),
        ("GET", "/logs/gpu"),
    ],
)
def test_routes_that_we_do_not_need_are_off(server, method, path):
    response = server.request(method, path)
    assert response.status_code == 404
    assert "switched off" in response.text or path.startswith("//")


def test_a_web_page_elsewhere_cannot_drive_the_server(server):
    foreign = {"Origin": "https://evil.example"}
    for method, path in (("GET", "/info/"), ("OPTIONS", "/info/"), ("DELETE", "/pasta/jobs/x")):
        response = server.request(method, path, headers=foreign)
        assert response.status_code == 403
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
    assert server.get("/info/", headers={"Origin": server.url}).status_code == 200
    plain = server.get("/info/")
    assert not [name for name in plain.headers if name.lower().startswith("access-control")]


def test_a_name_of_a_patient_in_a_file_name_is_not_logged(server, tmp_path):
    path = save_ct(tmp_path / "Mustermann^Erika.nii.gz", body(seed=5))
    server.infer("pasta_screening", files={"file": path})
    files = {"file": (path.name, path.read_bytes()[:500])}
    server.request("PUT", "/datastore/image", files=files)
    assert "Mustermann" not in server.log.read_text(errors="replace")
