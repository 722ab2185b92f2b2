"""A small reader study for the tests, and a reader who reads it over HTTP."""

import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import requests

from pasta.networks.checkpoint import find_models
from pasta.study import EventLog
from pasta.study.folder import make_key, new_codes, write_allocation
from pasta.study.lock import lock

ADMIN = "a coordinator's secret"
PART = """
[[parts]]
name = "{name}"
task = "{task}"
organs = ["liver"]
arms = ["solo", "assisted"]
allocation = "{allocation}"
budget_minutes = {budget}
training_cases = {training}
ai = {ai}
"""
SCREEN = """
[[parts.questions]]
id = "tumour"
text = "Is a tumour present?"
type = "yes_no"
[[parts.questions]]
id = "degree"
text = "How sure?"
type = "score"
"""
SEGMENT = """
[[parts.questions]]
id = "lesions"
text = "Draw all lesions."
type = "mask"
"""


def weights_of(models: Path) -> dict[str, str]:
    return find_models(models).weights_sha256


def make_study(folder, models, images, *, study_id="mini", locked=True, washout=0, **options):
    """Write, allocate and lock a study; returns the login codes."""
    options = {
        "name": "screening",
        "task": "screen",
        "allocation": "counterbalanced",
        "budget": 30,
        "training": json.dumps(list(options.pop("training", ()))),
        "ai": '["screening", "segmentation"]',
        **options,
    }
    folder.mkdir(parents=True)
    readers = "".join(
        f'[[readers]]\ncode = "{code}"\nlevel = "{level}"\n'
        for code, level in (("J1", "junior"), ("J2", "junior"), ("S1", "senior"), ("S2", "senior"))
    )
    questions = SCREEN if options["task"] == "screen" else SEGMENT
    (folder / "protocol.toml").write_text(
        f'[study]\nid = "{study_id}"\ntitle = "Liver, a small study"\nseed = 7\n'
        f"washout_days = {washout}\n{readers}{PART.format(**options)}{questions}"
    )
    rows = (f"{image},liver,{index % 2}" for index, image in enumerate(images))
    (folder / "cases.csv").write_text("image,organ,positive\n" + "\n".join(rows) + "\n")
    make_key(folder)
    write_allocation(folder)
    codes = new_codes(folder)
    if locked:
        lock(folder, weights_of(models))
    return codes


class Client:
    """One reader's machine: HTTP, and a log as Slicer writes it."""

    def __init__(self, url, study, code, folder, machine=None):
        self.url, self.study, self.code, self.folder = url, study, code, Path(folder)
        self.machine = machine or secrets.token_hex(16)
        self.token = ""
        self.seat = {}
        self.log = None
        self.sent = 0

    @property
    def headers(self):
        return {"Authorization": f"Bearer {self.token}", "X-Machine-Session": self.machine}

    def call(self, method, path, **options):
        options.setdefault("timeout", 60)
        headers = {**self.headers, **options.pop("headers", {})}
        return requests.request(method, f"{self.url}{path}", headers=headers, **options)

    def login(self, **more):
        given = {"study": self.study, "code": self.code, "machine_session": self.machine, **more}
        response = self.call("POST", "/pasta/study/login", json=given)
        if response.ok:
            self.seat = response.json()
            self.token = self.seat["token"]
            self.open_log()
        return response

    def open_log(self):
        path = self.folder / f"{self.seat['session_id']}.jsonl"
        self.log = EventLog(
            path,
            reader=self.seat["reader"],
            study_id=self.seat["study_id"],
            level=self.seat["level"],
            arm=self.seat["arm"],
            session_id=self.seat["session_id"],
        )

    def next(self, wait=True):
        """Ask for the next case until it is prepared."""
        for _ in range(600):
            response = self.call("POST", "/pasta/study/next")
            if response.status_code != 503 or not wait:
                return response
            import time

            time.sleep(0.2)
        raise AssertionError(response.text)

    def read(self, case, seconds=1.0, **answer):
        """Log a reading of a case and answer it."""
        now = self.log._monotonic_ns()
        where = {"case": case["case"], "position": case["position"]}
        for kind, at in (("case_requested", 0.0), ("load_start", 0.0), ("load_end", 0.1)):
            self.log.append(kind, mono_ns=now + int(at * 1e9), **where)
        self.log.append("case_complete", mono_ns=now + int(seconds * 1e9), **where)
        return self.answer(case["case"], seconds=seconds, **answer)

    def answer(self, code, *, seconds=1.0, status="complete", answers=None, mask=None, timing=None):
        given = {
            "answers": {"tumour": "yes", "degree": 70} if answers is None else answers,
            "status": status,
            "timing": {"seconds": seconds} if timing is None else timing,
        }
        files = {"answer": (None, json.dumps(given))}
        if mask is not None:
            files["mask"] = ("mask.nii.gz", mask)
        return self.call("POST", f"/pasta/study/case/{code}/answer", files=files)

    def lines(self):
        return self.log.path.read_text().splitlines()

    def upload(self, lines=None, session=None):
        given = {
            "session_id": session or self.seat["session_id"],
            "lines": self.lines() if lines is None else lines,
        }
        return self.call("POST", "/pasta/study/events", json=given)

    def end(self):
        self.upload()
        given = {"head": self.log.head, "seq": self.log.seq}
        return self.call("POST", "/pasta/study/end", json=given)


def now():
    return datetime.now(UTC)


def environment(folder):
    return {"PASTA_STUDY": os.fspath(folder), "PASTA_ADMIN_TOKEN": ADMIN}
