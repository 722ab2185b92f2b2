"""A server that is killed again and again at random moments loses nothing that it acknowledged."""

import json
import random
import signal
import threading
import time

import pytest
import requests
from serving import Server
from studying import Client, environment, make_study

from pasta.study import verify
from pasta.study.archive import Archive, check
from pasta.study.index import Index

pytestmark = pytest.mark.slow
KILLS = 6


class Persistent(threading.Thread):
    """A reader who reads on whatever happens, and writes down what the server acknowledged."""

    def __init__(self, client, address):
        super().__init__(daemon=True)
        self.client, self.address = client, address
        self.acknowledged, self.answers = {}, {}
        self.stopped = threading.Event()

    def insist(self, call):
        """Do a call until the server answers."""
        while True:
            self.client.url = self.address[0]
            try:
                answer = call()
            except requests.RequestException:
                time.sleep(0.2)
                continue
            if answer.status_code not in (503, 507):
                return answer
            time.sleep(0.1)

    def send(self):
        done = self.insist(self.client.upload)
        assert done.status_code == 200, done.text
        self.acknowledged[self.client.seat["session_id"]] = done.json()["accepted_seq"]

    def run(self):
        client = self.client
        while not self.stopped.is_set():
            assert self.insist(lambda: client.login(take_over=True)).status_code == 200
            while not self.stopped.is_set():
                case = self.insist(lambda: client.next(wait=False)).json()
                if "case" not in case:
                    self.send()
                    if case["done"] == "study":
                        return
                    given = {"head": client.log.head, "seq": client.log.seq}
                    ended = self.insist(
                        lambda given=given: client.call("POST", "/pasta/study/end", json=given)
                    )
                    assert ended.status_code == 200, ended.text
                    break
                now = client.log._monotonic_ns()
                for kind, second in (("load_start", 0), ("slice_scroll", 1), ("case_complete", 2)):
                    at = now + second * 10**8
                    client.log.append(kind, case=case["case"], mono_ns=at)
                self.send()
                answer = self.insist(lambda case=case: client.answer(case["case"], seconds=0.2))
                assert answer.status_code == 200, answer.text
                self.answers[client.seat["block"], case["case"]] = answer.json()["sha256"]


def test_nothing_acknowledged_is_lost(study_images, models, tmp_path):
    studies = tmp_path / "studies"
    images = [f"case-{number}" for number in range(9)]
    codes = make_study(studies / "killed", models, images, study_id="killed", ai='["segmentation"]')
    draw = random.Random(4)
    address = [""]

    def start(number):
        log = tmp_path / f"server-{number}.log"
        server = Server(study_images, models, log, **environment(studies))
        address[0] = server.url
        return server

    server = start(0)
    readers = [
        Persistent(Client(server.url, "killed", codes[code], tmp_path), address)
        for code in ("J1", "S1")
    ]
    for reader in readers:
        reader.start()
    for number in range(1, KILLS + 1):
        time.sleep(draw.uniform(0.1, 1.2))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server = start(number)
    try:
        for reader in readers:
            reader.join(180)
            assert not reader.is_alive()
    finally:
        for reader in readers:
            reader.stopped.set()
        server.stop()
    folder = studies / "killed"
    assert check(folder) == []
    archive = Archive(folder)
    for reader in readers:
        assert len(reader.acknowledged) == 2  # one session a block, through all the kills
        assert len(reader.answers) == 9
        for session, seq in reader.acknowledged.items():
            assert verify(archive.log_path(session)).events == seq
            own = (tmp_path / f"{session}.jsonl").read_text()
            assert archive.log_path(session).read_text() == own
        for (block, case), sha256 in reader.answers.items():
            versions = archive.versions(block, case)
            assert [answer.record["sha256"] for answer in versions] == [sha256]
    index = Index(folder)
    index.rebuild()
    assert len(index.rows("SELECT * FROM reads")) == 18
    assert json.dumps(index.rows("SELECT * FROM sessions"))
