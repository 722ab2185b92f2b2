"""What goes wrong in a study: second login, stolen session, restart, full disk, early sittings.

The behaviour is stated in `docs/reader_study_server.md`; nothing that was acknowledged is lost.
"""

import json
import resource
import signal
import time

import pytest
import requests
from serving import Server, body, save_ct
from studying import ADMIN, Client, environment, make_study

from pasta.study.archive import check

BEARER = {"Authorization": f"Bearer {ADMIN}"}
IMAGES = [f"case-{number}" for number in range(9)]


@pytest.fixture(scope="module")
def studies(study_server, study_folder, models, tmp_path_factory):
    """Studies for the tests of this file, beside `mini`; AI is not what they are about."""
    where = tmp_path_factory.mktemp("readers")

    def made(study_id, **options):
        options = {"ai": '["segmentation"]', **options}
        folder = study_folder / study_id
        codes = make_study(folder, models, IMAGES[:4], study_id=study_id, **options)

        def reader(code="J1", machine=None):
            return Client(study_server.url, study_id, codes[code], where, machine)

        return folder, reader

    return made


@pytest.fixture(scope="module")
def doors(studies):
    return studies("doors")


def problems(server, study):
    return server.get(f"/pasta/coordinator/api/{study}", headers=BEARER).json()["problems"]


# --- who may come in


def test_a_wrong_code_and_an_unknown_study_are_refused(study_server, doors):
    _, reader = doors
    stranger = reader()
    stranger.code = "AAAA-BBBB-CCCC"
    refused = stranger.login()
    assert refused.status_code == 401
    assert "AAAA" not in refused.text
    stranger.study = "none"
    assert stranger.login().status_code == 404
    whole = {"study": "doors", "code": "x", "machine_session": "y" * 9}
    for wrong in ({"study": 5}, {"study": ""}, {"code": "\ud800"}, {"machine_session": "short"}):
        given = {**whole, **wrong}
        assert stranger.call("POST", "/pasta/study/login", json=given).status_code == 422


def test_guessing_codes_is_slowed_down(models, study_images, tmp_path):
    from importlib import util

    from serving import APP

    spec = util.spec_from_file_location("tokens", APP / "lib" / "study" / "tokens.py")
    tokens = util.module_from_spec(spec)
    spec.loader.exec_module(tokens)
    now = [0.0]
    brake = tokens.Brake(lambda: now[0])
    for _ in range(10):
        assert brake.seconds("a") == 0
        brake.failed("a")
    assert brake.seconds("a") == pytest.approx(60)
    assert brake.seconds("b") == 0
    now[0] = 61.0
    assert brake.seconds("a") == 0


def test_a_second_login_is_refused_unless_it_takes_over(study_server, doors):
    _, reader = doors
    first, second = reader("J2"), reader("J2")
    assert first.login().ok
    case = first.next().json()
    refused = second.login()
    assert (refused.status_code, refused.json()["code"]) == (409, "live")
    assert first.next().ok  # nothing has changed for the first
    assert second.login(take_over=True).ok
    assert first.next().status_code == 401
    again = second.next().json()
    assert (again["case"], again["resumed"]) == (case["case"], True)
    assert [p for p in problems(study_server, "doors") if p["kind"] == "Session taken over"]
    # what the first machine had not sent is sent when it logs in again
    first.log.append("session_start")
    lines, old = first.lines(), first.seat["session_id"]
    assert first.login(take_over=True).ok
    assert first.upload(lines, session=old).json()["accepted_seq"] == 1


def test_the_same_machine_may_log_in_again(doors):
    _, reader = doors
    first = reader("S1")
    seat = first.login().json()
    again = reader("S1", machine=first.machine).login().json()
    assert (again["session_id"], again["token"]) == (seat["session_id"], seat["token"])


def test_a_stolen_token_opens_nothing_and_is_told(study_server, doors):
    _, reader = doors
    owner, thief = reader("S2"), reader("S2")
    assert owner.login().ok
    thief.token = owner.token
    for method, path in (("POST", "/pasta/study/next"), ("GET", "/pasta/study/upcoming")):
        assert thief.call(method, path).status_code == 401
    assert owner.next().ok
    assert [p for p in problems(study_server, "doors") if p["kind"] == "Token refused"]


def test_an_unlocked_study_and_a_changed_one_let_nobody_in(study_server, studies, models):
    from studying import weights_of

    from pasta.study.lock import lock

    folder, reader = studies("unlocked", locked=False)
    refused = reader().login()
    assert (refused.status_code, refused.json()["code"]) == (409, "unlocked")
    lock(folder, weights_of(models))
    assert reader().login().ok  # served from now on, without a restart
    text = (folder / "cases.csv").read_text()
    (folder / "cases.csv").write_text(text.replace(",1", ",0"))
    refused = reader("J2").login()
    assert (refused.status_code, refused.json()["code"]) == (409, "changed")
    assert "cases.csv" in refused.text
    found = [p for p in problems(study_server, "unlocked") if p["kind"] == "Lock"]
    assert "cases.csv" in found[0]["text"]
    (folder / "cases.csv").write_text(text)
    assert reader("J2").login().ok


# --- what is kept


def test_answers_are_checked_kept_and_never_replaced(study_server, studies):
    folder, reader = studies("answers")
    me = reader()
    me.login()
    case = me.next().json()
    for answers in ({}, {"tumour": "maybe"}, {"tumour": 1, "degree": 101}, {"tumour": 1, "x": 2},
                    {"tumour": 1, "degree": True}, {"degree": 5}):  # fmt: skip
        refused = me.answer(case["case"], answers=answers)
        assert refused.status_code == 422, answers
    assert me.answer(case["case"], timing={}).status_code == 422
    assert me.answer(case["case"], status="done").status_code == 422
    first = me.answer(case["case"]).json()
    assert first["version"] == 1
    again = me.answer(case["case"]).json()
    assert again == {**first, "repeated": True}
    changed = me.answer(case["case"], answers={"tumour": "no", "degree": 5}).json()
    assert (changed["version"], changed["changed"]) == (2, True)
    kept = sorted((folder / "answers" / me.seat["block"] / case["case"]).glob("*.json"))
    records = [json.loads(path.read_text()) for path in kept]
    assert [record["answers"]["tumour"] for record in records] == [1, 0]
    assert [p for p in problems(study_server, "answers") if p["kind"] == "Changed answer"]
    skipped = me.next().json()
    assert me.answer(skipped["case"], status="skip", answers={}).ok


def test_a_mask_must_lie_on_the_grid_of_the_case(study_server, studies, tmp_path):
    import nibabel as nib
    import numpy as np

    folder, reader = studies("masks", task="segment", name="drawing")
    me = reader()
    me.login()
    case = me.next().json()
    image = tmp_path / "ct.nii.gz"
    image.write_bytes(me.call("GET", case["url"]).content)
    affine = nib.load(image).affine
    good = np.zeros((30, 30, 30), np.uint8)
    good[10:20, 10:20, 10:20] = 12

    def bytes_of(voxels, affine):
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "mask.nii.gz")
        return (tmp_path / "mask.nii.gz").read_bytes()

    for mask in (bytes_of(good[1:], affine), bytes_of(good, affine * 2), b"no mask", b""):
        assert me.answer(case["case"], answers={}, mask=mask).status_code == 422
    assert me.answer(case["case"], answers={}).status_code == 422  # a mask is required
    mask = bytes_of(good, affine)
    assert me.answer(case["case"], answers={}, mask=mask).ok
    kept = folder / "answers" / me.seat["block"] / case["case"] / "v0001.nii.gz"
    assert kept.read_bytes() == mask


def test_the_budget_ends_a_block_and_the_case_in_progress_is_kept_and_marked(study_server, studies):
    _, reader = studies("budget", budget=1)
    me = reader()
    assert me.login().json()["budget_seconds"] == 60
    assert me.read(me.next().json(), seconds=50.0).json()["left_seconds"] == pytest.approx(10)
    last = me.read(me.next().json(), seconds=55.0).json()
    assert (last["status"], last["left_seconds"]) == ("budget", 0.0)
    me.upload()
    done = me.next().json()
    assert done["done"] in ("budget", "block")
    assert done["next_block"]["block"] != me.seat["block"]
    assert me.end().json()["block_finished"]


def test_a_budget_that_runs_out_is_told_with_cases_left(
    studies, models, study_folder, study_server, tmp_path
):
    codes = make_study(study_folder / "short", models, IMAGES[:8], study_id="short", budget=0.5,
                       ai='["segmentation"]')  # fmt: skip
    me = Client(study_server.url, "short", codes["J1"], tmp_path)
    me.login()
    assert me.read(me.next().json(), seconds=30.0).ok
    assert me.next().json()["done"] == "budget"
    assert me.call("GET", "/pasta/study/upcoming").json()["case"] is None
    assert [p for p in problems(study_server, "short") if p["kind"] == "Budget ended"]


def test_time_comes_from_the_log_where_it_is_there(studies):
    _, reader = studies("times")
    me = reader()
    me.login()
    case = me.next().json()
    now = me.log._monotonic_ns()
    for kind, second in (
        ("load_start", 0),
        ("pause_start", 4),
        ("pause_end", 104),
        ("case_complete", 110),
    ):
        me.log.append(kind, case=case["case"], mono_ns=now + second * 10**9)
    me.upload()
    left = me.answer(case["case"], seconds=1.0).json()["left_seconds"]  # the answer says 1 s
    assert left == pytest.approx(1800 - 10)


def test_an_early_sitting_is_refused_until_the_coordinator_says_why(study_server, studies):
    _, reader = studies("washout", allocation="crossed", washout=28)
    me = reader()
    me.login()
    while "case" in (case := me.next().json()):
        assert me.read(case, seconds=5.0).ok
    me.end()
    refused = me.login()
    assert (refused.status_code, refused.json()["code"]) == (409, "washout")
    assert "28 days" in refused.json()["detail"]
    block = case["next_block"]["block"]
    url = "/pasta/coordinator/api/washout/override"
    given = {"block": block, "reason": "the reader leaves the hospital next week"}
    assert study_server.request("POST", url, json=given).status_code == 401
    assert me.call("POST", url, json=given).status_code == 401
    for wrong in ({**given, "reason": ""}, {**given, "block": "x"}, {}):
        answer = study_server.request("POST", url, json=wrong, headers=BEARER)
        assert answer.status_code in (404, 422)
    assert study_server.request("POST", url, json=given, headers=BEARER).ok
    assert me.login().ok
    found = problems(study_server, "washout")
    assert [p for p in found if "leaves the hospital" in p["text"]]


# --- server and network


@pytest.fixture
def own_server(study_images, models, tmp_path):
    """A server that a test may kill and start again, on the same port."""
    folder = tmp_path / "studies"
    codes = make_study(folder / "own", models, IMAGES, study_id="own", ai='["segmentation"]')
    started = []

    def start(**options):
        log = tmp_path / f"server-{len(started)}.log"
        server = Server(study_images, models, log, **environment(folder), **options)
        started.append(server)
        return server

    yield start, codes, folder / "own"
    for server in started:
        if server.process.poll() is None:
            server.stop()


def test_a_server_killed_in_mid_session_goes_on_where_it_was(own_server, tmp_path):
    start, codes, folder = own_server
    server = start()
    me = Client(server.url, "own", codes["J1"], tmp_path)
    assert me.login().ok
    assert me.read(me.next().json(), seconds=3.0).ok
    me.log.append("clock_check")
    assert me.upload(me.lines()[:3]).json()["accepted_seq"] == 3
    case = me.next().json()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    with pytest.raises(requests.ConnectionError):
        me.next(wait=False)
    server = start()
    me.url = server.url
    assert me.next().json() == case  # the same token, the same case
    assert me.upload().json()["accepted_seq"] == len(me.lines())  # from where it was cut
    answer = me.read(case, seconds=4.0)
    assert answer.ok, answer.text
    assert answer.json()["left_seconds"] == pytest.approx(1800 - 7)
    assert me.end().ok
    assert check(folder) == []
    # a full disk: the system refuses to write; the reader is told, and sends it again
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    you = Client(server.url, "own", codes["J2"], tmp_path)
    assert you.login().ok
    case = you.next().json()
    for _ in range(40):
        you.log.append("slice_scroll", {"slices": 3}, case=case["case"])
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1000, limits[1]))
    assert you.upload().status_code == 507
    assert you.answer(case["case"]).status_code == 507
    assert "free space" in you.answer(case["case"]).text.lower()
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    assert you.upload().json()["accepted_seq"] == 40
    assert you.answer(case["case"]).json()["version"] == 1
    assert you.next().json()["case"] != case["case"]
    assert check(folder) == []


def test_without_a_study_the_server_is_as_before(server):
    assert server.get("/pasta/study").status_code == 404
    assert server.get("/pasta/coordinator/").status_code == 404
    assert server.get("/pasta/images").status_code == 200
    assert not [path for path in server.get("/openapi.json").json()["paths"] if "/study" in path]


def test_a_wrong_protocol_closes_its_own_study_only(study_server, studies, study_folder):
    _, reader = studies("sound")
    bad = study_folder / "wrong"
    bad.mkdir()
    (bad / "protocol.toml").write_text('[study]\nid = "wrong"\ntitle = 5\n')
    refused = reader()
    refused.study = "wrong"
    answer = refused.login()
    assert (answer.status_code, answer.json()["code"]) == (409, "unlocked")
    assert "protocol.toml" not in answer.text  # what is wrong is for the coordinator
    assert reader().login().ok
    listed = study_server.get("/pasta/coordinator/api/studies", headers=BEARER).json()["studies"]
    (found,) = [study for study in listed if study["id"] == "wrong"]
    assert "protocol.toml:3" in found["reason"]
    (bad / "protocol.toml").unlink()


def test_a_case_whose_image_is_gone_is_told_and_blocks_nobody_else(
    study_server, study_images, study_folder, models, tmp_path
):
    lost = save_ct(study_images / "lost.nii.gz", body((30, 30, 30)))
    codes = make_study(study_folder / "gone", models, ["lost", *IMAGES[:3]], study_id="gone",
                       training=["lost"], ai='["segmentation"]')  # fmt: skip
    lost.unlink()
    reader = Client(study_server.url, "gone", codes["J1"], tmp_path)
    assert reader.login().ok
    until = time.monotonic() + 30
    while time.monotonic() < until:
        waiting = reader.next(wait=False)
        assert waiting.status_code == 503  # never a case that is not whole
        found = [p for p in problems(study_server, "gone") if p["kind"] == "Preparation"]
        if found:
            break
        time.sleep(0.3)
    assert "could not be prepared" in found[0]["text"]
    save_ct(lost, body((30, 30, 30)))
