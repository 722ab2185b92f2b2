"""A reader's session on the real server: whose turn is which case, and what is kept."""

import json

import nibabel as nib
import numpy as np
import pytest
from studying import Client, make_study


def test_a_server_lists_its_studies_to_anybody(study_server):
    found = study_server.get("/pasta/study").json()["studies"]
    assert {"id": "mini", "title": "Liver, a small study", "locked": True} in found


def test_a_block_is_read_from_login_to_end(study_server, codes, tmp_path):
    reader = Client(study_server.url, "mini", codes["J1"], tmp_path)
    seat = reader.login().json()
    assert (seat["reader"], seat["level"], seat["organ"], seat["task"]) == (
        "J1",
        "junior",
        "liver",
        "screen",
    )
    assert seat["training_left"] == 1
    total = seat["cases_total"]
    seen = []
    for number in range(total + 1):
        case = reader.next().json()
        assert reader.next().json() == case  # the same until it is answered
        assert case["training"] == (number == 0)
        assert case["position"] == max(number, 1)
        image = reader.call("GET", case["url"])
        assert image.status_code == 200
        assert (
            reader.call(
                "GET", case["url"], headers={"If-None-Match": image.headers["ETag"]}
            ).status_code
            == 304
        )
        answer = reader.read(case, seconds=2.0)
        assert answer.status_code == 200, answer.text
        reader.upload()
        seen.append(case["case"])
        used = 2.0 * number
        assert answer.json()["left_seconds"] == pytest.approx(1800 - used)
    assert len(set(seen)) == total + 1
    done = reader.next().json()
    assert done["done"] == "block"
    assert done["next_block"]["arm"] != seat["arm"]
    ended = reader.end()
    assert ended.status_code == 200, ended.text
    assert ended.json()["block_finished"]
    assert not ended.json()["live"]
    assert reader.end().status_code == 200  # once more changes nothing
    assert reader.next().status_code == 401
    again = reader.login().json()
    assert again["arm"] != seat["arm"]
    assert again["session_id"] != seat["session_id"]


def test_ai_is_there_before_an_assisted_case_is_handed_out(
    study_server, study_folder, models, tmp_path
):
    """All tasks of the protocol, at once and without a wait, for the case and the one after it."""
    codes = make_study(
        study_folder / "ahead",
        models,
        [f"case-{number}" for number in range(4)],
        study_id="ahead",
        ai='["report", "screening", "segmentation"]',
    )
    readers = (Client(study_server.url, "ahead", code, tmp_path) for code in codes.values())
    reader = next(reader for reader in readers if reader.login().json()["arm"] == "assisted")
    case = reader.next().json()["case"]
    url = f"/pasta/study/case/{case}"
    documents = {task: reader.call("GET", f"{url}/ai/{task}") for task in reader.seat["ai"]}
    assert {task: answer.status_code for task, answer in documents.items()} == {
        "report": 200,
        "screening": 200,
        "segmentation": 200,
    }
    (organ,) = documents["screening"].json()["organs"]
    assert organ["organ"] == "liver"
    found = documents["segmentation"].json()["labels"]
    assert documents["report"].json()["labels"] == found  # the report is of that very mask
    paths = {"ct": tmp_path / "ct.nii.gz", "mask": tmp_path / "mask.nii.gz"}
    paths["ct"].write_bytes(reader.call("GET", f"{url}/image").content)
    mask = reader.call("GET", f"{url}/ai/segmentation", params={"part": "mask"})
    paths["mask"].write_bytes(mask.content)
    ct, mask = nib.load(paths["ct"]), nib.load(paths["mask"])
    assert mask.shape == ct.shape
    np.testing.assert_allclose(mask.affine, ct.affine, atol=1e-4)
    assert reader.call("GET", f"{url}/ai/diagnosis").status_code == 404
    log = (study_folder / "ahead" / "logs" / "server.jsonl").read_text().splitlines()
    kinds = [
        (event["type"], event["payload"].get("what"))
        for event in map(json.loads, log)
        if event["case"] == case
    ]
    assigned = kinds.index(("case_assigned", None))
    for task in reader.seat["ai"]:
        assert kinds.index(("ai_precomputed", task)) < assigned
