"""The server's clock and its own log: what is set, changed or shared is found out.

Run in a process of its own, where the clock can be set without setting that of the machine.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from serving import APP
from studying import make_study, weights_of

HEAD = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
sys.path.insert(0, {app!r})
import lib.study.running as running
from pasta.errors import PastaError
from pasta.study.events import read_events
from pasta.study.folder import StudyFolder

folder, shift = Path({folder!r}), [timedelta()]

class Clock(datetime):
    @classmethod
    def now(cls, zone=None):
        return datetime.now(zone) + shift[0]

running.datetime = Clock

def opened(seconds=0.0):
    study = running.RunningStudy(
        StudyFolder.open(folder), lambda: {weights!r}, lambda image, mask: None, seconds
    )
    return study

def clock_checks():
    log = folder / "logs" / "server.jsonl"
    return [e["payload"] for e in read_events(log) if e["type"] == "clock_check"]

ANSWER = b'{{"answers": {{"tumour": 1, "degree": 60}}, "timing": {{"seconds": 0.5}}}}'
"""


@pytest.fixture
def run(models, tmp_path):
    folder = tmp_path / "study"
    make_study(folder, models, [f"case-{number}" for number in range(8)], study_id="clock")

    def run(code):
        head = HEAD.format(app=str(APP), folder=str(folder), weights=weights_of(models))
        done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run.folder = Path(folder)
    return run


def test_a_clock_that_is_set_is_noted_and_changes_no_duration(run):
    run("""
study = opened()
seat = study.login("J1", "machine-1", take_over=False)
session = study.session(seat["token"], "machine-1")
case = study.next(session)
shift[0] = -timedelta(hours=3)
assert study.answer(session, case["case"], ANSWER, None)["left_seconds"] == 1799.5
(noted,) = clock_checks()
assert abs(noted["step_seconds"] + 3 * 3600) < 5, noted
(answer,) = [e["payload"] for e in study.events() if e["type"] == "answer_received"]
assert 0 <= answer["server_seconds"] < 60, answer
study.close()
shift[0] = -timedelta(days=40)  # set back while the server was off
study = opened()
assert "set back" in clock_checks()[-1]["what"]
assert study.next(study.session(seat["token"], "machine-1"))["position"] == 2
""")


def test_a_study_has_one_server(run):
    run("""
study = opened()
try:
    opened(seconds=0.3)
except PastaError as error:
    assert "another server serves it" in str(error)
else:
    raise AssertionError
study.close()
opened().close()
""")


def test_a_changed_server_log_closes_the_study(run):
    run("""
study = opened()
study.login("J1", "machine-1", take_over=False)
study.close()
path = folder / "logs" / "server.jsonl"
text = path.read_text()
path.write_text(text.replace('"arm":"solo"', '"arm":"sole"').replace("J1-", "J2-", 1))
try:
    opened()
except PastaError as error:
    assert "was changed" in str(error)
else:
    raise AssertionError
path.write_text(text)
opened().close()
""")


def test_a_weight_that_is_another_lets_nobody_in(run):
    run("""
study = opened()
study._weights = lambda: {"threshold": "0" * 64}
try:
    study.login("J1", "machine-1", take_over=False)
except running.RefusedError as error:
    assert (error.status, error.code) == (409, "changed"), error
else:
    raise AssertionError
study.close()
""")
