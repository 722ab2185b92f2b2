"""A reader's session on the real server: whose turn is which case, and what is kept."""

import json

import pytest
from studying import Client


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
