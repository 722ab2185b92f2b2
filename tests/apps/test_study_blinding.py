"""A reader of the solo arm, or anybody without the admin token, gets no AI, no truth, no answers.

Every route that the running server tells of is tried, and those it does not tell of.
"""

import itertools
import json
import re

import pytest
import requests
from studying import ADMIN, Client, make_study

from pasta.study import case_code
from pasta.study.folder import StudyFolder

BEARER = {"Authorization": f"Bearer {ADMIN}"}
HIDDEN = [  # routes that OpenAPI leaves out, and ways around a list of paths
    ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/static/index.html"),
    ("PUT", "/datastore/"), ("DELETE", "/datastore/"), ("POST", "/reload"), ("POST", "/train/"),
    ("GET", "/ohif/"), ("GET", "/proxy/dicom/x"), ("GET", "/logs/"), ("GET", "/favicon.ico"),
    ("GET", "//info/"), ("GET", "//pasta/images"), ("GET", "/pasta/images/"),
    ("GET", "/pasta/health/../images"), ("GET", "/pasta/study/../images"),
    ("GET", "/pasta/study/%2e%2e/images"), ("GET", "/pasta/study/..%2fimages"),
    ("GET", "/PASTA/images"), ("GET", "/pasta/study%2f..%2fimages"), ("GET", "/pasta/images%00"),
    ("GET", "/pasta/coordinator/../images"), ("GET", "/pasta/coordinator/assets/..%2fstudy.html"),
    ("GET", "/pasta/coordinator/api/blind"), ("GET", "/pasta/coordinator/api/studies"),
    ("GET", "/pasta/coordinator/api/blind/export"), ("GET", "/pasta/coordinator/study/blind"),
    ("GET", "/model/x"), ("PUT", "/model/x"), ("DELETE", "/model/x"), ("POST", "/infer/wsi/x"),
    ("GET", "/proxy/dicom/wado/x"), ("GET", "/logs/gpu"), ("GET", "/auth/"), ("GET", "/redoc"),
    ("TRACE", "/pasta/images"), ("OPTIONS", "/pasta/images"), ("HEAD", "/datastore/image"),
]  # fmt: skip
TASKS = ("segmentation", "screening", "report", "diagnosis")


@pytest.fixture(scope="module")
def blind(study_server, study_folder, models, tmp_path_factory):
    """A study in which J1 reads solo and J2 assisted, each with a case open."""
    images = [f"case-{number}" for number in range(9)]
    folder = study_folder / "blind"
    codes = make_study(folder, models, images, study_id="blind")
    where = tmp_path_factory.mktemp("readers")
    seats = {}
    for code in ("J1", "J2", "S1", "S2"):
        reader = Client(study_server.url, "blind", codes[code], where)
        arm = reader.login().json()["arm"]
        if arm not in seats:
            assert reader.next().ok
            reader.read(reader.next().json())
            assert reader.next().ok
            seats[arm] = reader
    assert set(seats) == {"solo", "assisted"}
    return {**seats, "folder": folder}


@pytest.fixture(scope="module")
def secrets_of_ai(study_server, blind):
    """Bytes that only an answer with AI output holds: of the very cases of this study."""
    found = [
        b"pasta-aid/screening/",
        b"pasta-aid/segmentation/",
        b"weights_sha256",
        b'"probability"',
    ]
    case = blind["assisted"].next().json()["case"]
    for task in ("screening", "segmentation"):
        answer = blind["assisted"].call("GET", f"/pasta/study/case/{case}/ai/{task}")
        assert answer.status_code == 200, answer.text
        assert any(mark in answer.content for mark in found)
    path = f"/pasta/study/case/{case}/ai/segmentation"
    masks = [blind["assisted"].call("GET", path, params={"part": "mask"}).content]
    masks += [path.read_bytes() for path in blind["folder"].rglob("ai/**/*.nii.gz")]
    assert all(mask[:2] == b"\x1f\x8b" for mask in masks)
    return found + [mask[10:200] for mask in masks]


def attempts(study_server, codes):
    """Every method of every route, with ids that exist and ids that do not."""
    described = study_server.get("/openapi.json", headers=BEARER).json()["paths"]
    assert len(described) > 35
    values = {
        "model": [f"pasta_{task}" for task in TASKS],
        "code": codes,
        "task": TASKS,
        "image": ["case-1"],
        "study_id": ["blind"],
        "session_id": ["0" * 32],
        "job": [f"study-{codes[0]}-liver-segmentation"],
        "strategy": ["first"],
        "method": ["x"],
    }
    for path, methods in described.items():
        names = re.findall(r"{(\w+)}", path)
        for chosen in itertools.product(*(values.get(name, ["x"]) for name in names)):
            filled = path
            for name, value in zip(names, chosen, strict=True):
                filled = filled.replace(f"{{{name}}}", value)
            for method in methods:
                yield method.upper(), filled
    yield from HIDDEN


def strangers(blind):
    """Who may not see anything: by name, the headers that they send."""
    solo = blind["solo"]
    study, session, code = solo.token.split(".")
    forged = f"{study}.{blind['assisted'].seat['session_id']}.{code}"
    stolen = {"Authorization": f"Bearer {blind['assisted'].token}", "X-Machine-Session": "x" * 32}
    return {
        "the reader of the solo arm": solo.headers,
        "nobody": {},
        "a forged session": {**solo.headers, "Authorization": f"Bearer {forged}"},
        "a forged code": {**solo.headers, "Authorization": f"Bearer {study}.{session}.{'0' * 64}"},
        "a stolen token": stolen,
        "a wrong admin token": {"Authorization": "Bearer wrong"},
        "a made-up cookie": {"Cookie": "pasta_coordinator=" + "x" * 43},
    }


def test_no_route_gives_ai_to_anybody_but_the_assisted_reader(
    study_server, blind, secrets_of_ai, study_images
):
    cases = [
        blind["solo"].next().json()["case"],
        blind["assisted"].next().json()["case"],
        "c-" + "0" * 16,
    ]
    cases.append(blind["solo"].call("GET", "/pasta/study/upcoming").json()["case"])
    ct = (study_images / "case-1.nii.gz").read_bytes()
    with requests.Session() as http:
        for name, headers in strangers(blind).items():
            tried = 0
            for method, path in attempts(study_server, cases):
                if path in ("/pasta/study/login", "/pasta/study/end"):
                    continue
                body = {}
                if path.startswith(("/infer/", "/batch/")):  # the case itself, sent along
                    body = {"files": {"file": ("x.nii.gz", ct)}}
                answer = http.request(
                    method,
                    f"{study_server.url}{path}",
                    params={
                        "image": "case-1",
                        "label": "case-1",
                        "tag": "final",
                        "id": "case-1",
                        "part": "mask",
                        "output": "all",
                    },
                    headers=headers,
                    timeout=60,
                    allow_redirects=False,
                    **body,
                )
                tried += 1
                where = f"{method} {path} by {name}: {answer.status_code}"
                own = path.startswith(
                    ("/pasta/study", "/pasta/health", "/pasta/coordinator/assets")
                )
                page = path.startswith("/pasta/coordinator") and method in ("GET", "POST")
                if not own and not page:
                    assert answer.status_code in (403, 404, 405), where
                if "/ai/" in path and name == "the reader of the solo arm":
                    assert answer.status_code == 403, where
                elif "/ai/" in path:
                    assert answer.status_code in (401, 403), where
                for mark in secrets_of_ai:
                    assert mark not in answer.content, where
                assert b"positive" not in answer.content, where
            assert tried > 100


def test_a_solo_login_names_no_ai_and_its_log_holds_none(blind):
    assert blind["solo"].seat["ai"] == []
    assert blind["assisted"].seat["ai"] == ["screening", "segmentation"]
    log = blind["folder"] / "logs" / f"{blind['solo'].seat['session_id']}.jsonl"
    blind["solo"].upload()
    assert not [
        line for line in log.read_text().splitlines() if json.loads(line)["type"].startswith("ai_")
    ]


def test_an_ai_event_in_a_solo_session_is_kept_and_told(study_server, blind):
    blind["solo"].log.append("ai_shown", {"what": "screening"})
    assert blind["solo"].upload().ok  # nothing is lost
    found = study_server.get("/pasta/coordinator/api/blind", headers=BEARER).json()["problems"]
    assert [p for p in found if p["kind"] == "AI in the solo arm" and p["severity"] == "error"]


def test_a_solo_reader_who_asks_for_ai_is_noted(study_server, blind):
    case = blind["solo"].next().json()["case"]
    assert blind["solo"].call("GET", f"/pasta/study/case/{case}/ai/screening").status_code == 403
    found = study_server.get("/pasta/coordinator/api/blind", headers=BEARER).json()["problems"]
    assert [p for p in found if "asked for AI in the solo arm" in p["text"]]


def test_a_reader_sees_no_other_readers_cases_log_or_answers(blind):
    solo, assisted = blind["solo"], blind["assisted"]
    theirs = assisted.next().json()["case"]
    mine = {solo.next().json()["case"], solo.call("GET", "/pasta/study/upcoming").json()["case"]}
    assert theirs not in mine
    assert solo.call("GET", f"/pasta/study/case/{theirs}/image").status_code == 404
    block = StudyFolder.open(blind["folder"]).allocation.block(solo.seat["block"])
    key = bytes.fromhex((blind["folder"] / "study.key").read_text().strip())
    last = case_code(key, block.images[-1])  # his own, but not handed out yet
    assert solo.answer(last).status_code == 409
    assert solo.call("GET", f"/pasta/study/case/{last}/image").status_code == 404
    assert solo.answer("c-" + "0" * 16).status_code == 409
    session = assisted.seat["session_id"]
    assert solo.upload(assisted.lines(), session=session).status_code == 403
    forged = [line.replace(session, solo.seat["session_id"]) for line in assisted.lines()]
    assert solo.upload(forged).status_code in (409, 422)


def test_an_image_tells_of_nobody(study_server, blind, tmp_path):
    import gzip

    import nibabel as nib
    import numpy as np

    answer = blind["solo"].call(
        "GET", f"/pasta/study/case/{blind['solo'].next().json()['case']}/image"
    )
    assert "case-" not in str(answer.headers)
    assert b"case-" not in answer.content[:200]
    assert b"case-" not in gzip.decompress(answer.content)[:352]
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(answer.content)
    assert np.asarray(nib.load(path).dataobj).shape == (30, 30, 30)


def test_the_servers_output_holds_no_token_and_no_code(study_server, blind):
    text = study_server.log.read_text(errors="replace")
    for reader in (blind["solo"], blind["assisted"]):
        for secret in (reader.token, reader.code, reader.machine, ADMIN):
            assert secret not in text
    for path in (blind["folder"] / "logs").iterdir():
        text = path.read_text()
        for reader in (blind["solo"], blind["assisted"]):
            for secret in (reader.token, reader.code, reader.machine, ADMIN, "case-1"):
                assert secret not in text


def test_the_coordinator_may_use_every_route(study_server, blind):
    assert study_server.get("/pasta/images", headers=BEARER).status_code == 200
    assert study_server.get("/openapi.json", headers=BEARER).status_code == 200
