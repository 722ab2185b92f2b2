"""Every trap of MONAI Label 0.8.5 that a plain `start_server` meets; each test fails without its mend."""

import base64
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from packaging.specifiers import SpecifierSet
from serving import APP, MODELS, REPOSITORY, Server, body, save_ct

NOT_NEEDED = ("sam2", "torchvision", "mlflow", "openslide", "numpymaxflow", "sklearn", "bcrypt")
ENVIRONMENT = "from lib import mends; mends.apply(); "


def python(code: str, **options) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=180,
        cwd=APP,
        **options,
    ).stdout


def test_pins_hold_what_monai_label_needs():
    limits = {
        "monailabel": "==0.8.5",
        "monai": "==1.6.1",  # two security fixes; before 1.6 lies neither
        "pydicom": "<3",  # pydicom-seg needs its private table
        "dicomweb-client": "<0.61",  # imports pydicom 3 modules
        "pyjwt": ">=2",
        "setuptools": ">=77",  # distutils on Python 3.12
    }
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    for name, limit in limits.items():
        assert SpecifierSet(limit).contains(pinned[name]), name
        assert SpecifierSet(limit).contains(importlib.metadata.version(name)), name
    for name in ("torchvision", "sam-2", "sam2", "mlflow", "openslide-python", "numpymaxflow"):
        assert name not in pinned
    assert not re.search(r"[@+]|https?:", "\n".join(lines[1:]))


def test_the_server_and_the_app_import_without_the_vision_stack():
    blocked = "import sys; sys.modules.update(dict.fromkeys(" + repr(NOT_NEEDED) + ")); "
    python(blocked + "import monailabel.app, monailabel.main, main, lib.server")


def test_tracking_and_scoring_are_off_for_the_server_and_its_children():
    code = """
import json, os
from monailabel.config import settings
names = ["MONAI_LABEL_TRACKING_ENABLED", "MONAI_LABEL_AUTO_UPDATE_SCORING"]
show = lambda: [[getattr(settings, name), os.environ.get(name)] for name in names]
before = show()
"""
    output = python(code + ENVIRONMENT + "print(json.dumps([before, show()]))")
    before, after = json.loads(output.splitlines()[-1])
    assert before == [[True, None], [True, None]]  # else the mend is not needed any more
    assert after == [[False, "false"], [False, "false"]]


def keycloak():
    """A key pair, the public key as Keycloak publishes it, and a token signed with it."""
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = {
        "preferred_username": "ann",
        "exp": int(time.time()) + 600,
        "aud": "account",
        "realm_access": {"roles": ["monailabel-user", "monailabel-annotator"]},
    }
    return key, base64.b64encode(public).decode(), claims


@pytest.mark.parametrize("mended", [False, True])
def test_a_real_rs256_token_is_accepted(mended):
    key, public, claims = keycloak()
    good = jwt.encode(claims, key, algorithm="RS256")
    other = rsa.generate_private_key(65537, 2048)
    tokens = [
        good,
        jwt.encode(claims, other, algorithm="RS256"),
        jwt.encode({**claims, "exp": 1}, key, algorithm="RS256"),
        jwt.encode(claims, "x" * 40, algorithm="HS256"),
        jwt.encode(claims, None, algorithm="none"),
    ]
    code = f"""
import sys
from monailabel.config import settings
settings.MONAI_LABEL_AUTH_ENABLE = True
from monailabel.endpoints.user import auth
auth.get_public_key = lambda uri: "-----BEGIN PUBLIC KEY-----\\n{public}\\n-----END PUBLIC KEY-----"
{ENVIRONMENT if mended else ""}
for token in {tokens!r}:
    try:
        print("user", auth.from_token(token).username)
    except auth.InvalidTokenError as error:
        print("refused", type(error).__name__)
"""
    answers = [line for line in python(code).splitlines() if line.startswith(("user", "refused"))]
    assert answers[0] == ("user ann" if mended else "refused DecodeError")
    assert len(answers) == 5
    assert all(answer.startswith("refused") for answer in answers[1:])


def test_a_path_in_the_request_is_no_trap_as_no_monai_transform_sees_it():
    # MONAI 1.6 calls .update on every key that begins with "image_", MONAI Label's image_path too
    sources = [path.read_text() for path in APP.rglob("*.py")]
    assert len(sources) > 10
    for source in sources:
        assert not re.search(r"\b(BasicInferTask|LoadImaged|Spacingd|Restored|eval\()", source)


def test_a_task_that_is_told_of_may_be_written_to_meanwhile():
    code = """
import json
from monailabel.utils.async_tasks import task
record = {"id": "1", "details": [{"a": 1}]}
task.tasks = lambda _method: [record]
task.processes = lambda _method: {}
live, _ = task.AsyncTask.status("batch_infer")
"""
    after = """
told, _ = task.AsyncTask.status("batch_infer")
record["details"].append({"b": 2})
print(json.dumps([live, told]))
"""
    live, told = json.loads(python(code + ENVIRONMENT + after).splitlines()[-1])
    assert live["details"] == [{"a": 1}, {"b": 2}]  # else the mend is not needed any more
    assert told["details"] == [{"a": 1}]


@pytest.mark.parametrize(
    ("strategy", "answer"),
    [
        ("monailabel.tasks.activelearning.random", "ValueError"),
        ("lib.strategies", "ct"),
    ],
)
def test_the_only_image_left_may_be_asked_for_twice_within_a_second(strategy, answer):
    code = f"""
import time
from {strategy} import Random
class OneImage:
    def get_unlabeled_images(self, *_): return ["ct"]
    def get_image_info(self, _): return {{"strategy": {{"random": {{"ts": int(time.time()) + 1}}}}}}
try:
    print(Random()({{"strategy": "random"}}, OneImage())["id"])
except ValueError:
    print("ValueError")
"""
    assert python(ENVIRONMENT + code).splitlines()[-1] == answer


def test_what_a_start_writes_into_the_app_folder_is_ignored_by_git(server):
    names = ["bin/x", "logs/app.log", "model/x.pt"]
    paths = [str(APP / name) for name in names]
    found = subprocess.run(
        ["git", "check-ignore", *paths], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert found.stdout.splitlines() == paths
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all", str(APP)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    ).stdout
    assert not [line for line in status.splitlines() if not line.endswith(".py")]


LEAVE = """
import os, signal, sys
from pathlib import Path
from lib.private import PrivateFolder
folder = PrivateFolder(Path(sys.argv[1]))
(folder.path / "ct.nii.gz").write_text("a patient")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def poor_server(tmp_path_factory):
    """A server without weights, started after another one was killed in the same folder."""
    parent = tmp_path_factory.mktemp("poor")
    save_ct(parent / "studies" / "ct.nii.gz", body())
    run = parent / "studies" / ".pasta" / "run"
    subprocess.run([sys.executable, "-c", LEAVE, str(run)], cwd=APP, check=False)
    assert len(list(run.rglob("ct.nii.gz"))) == 1  # so somebody has to remove it
    (parent / "models").mkdir()
    server = Server(parent / "studies", parent / "models", parent / "log")
    yield server
    server.stop()


def test_what_a_killed_server_left_is_gone_after_the_next_start(poor_server):
    assert not list((poor_server.studies / ".pasta" / "run").rglob("ct.nii.gz"))


def refusals(server) -> dict[str, str]:
    details = {}
    for model in MODELS:
        response = server.infer(model, image="ct")
        if response.status_code != 200:
            assert response.status_code == 503, response.text
            details[model] = response.json()["detail"]
    assert server.leftovers() == []
    return details


def test_a_start_leaves_no_log_configuration_in_the_temporary_folder(server, tmp_path):
    # MONAI Label writes tmpXXXX.json at every start and never removes it
    assert Path(server.temporary).is_dir()
    assert not list(Path(server.temporary).glob("*.json"))
    other = tmp_path / "tmpabc.json"
    other.write_text('{"filename": "/another/app/logs/app.log"}')
    mine = tmp_path / "tmpdef.json"
    mine.write_text('{"filename": "/this/app/logs/app.log"}')
    code = "from pathlib import Path; from lib import server; "
    code += "server.remove_log_config(Path('/this/app'))"
    python(code, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert other.exists()
    assert not mine.exists()


def test_networks_are_loaded_before_the_first_request(server):
    # building the first network imports much and holds all threads up for half a second
    deadline = time.monotonic() + 60
    while "warm-up done" not in server.log.read_text(errors="replace"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "warm-up failed" not in server.log.read_text(errors="replace")


WORKER = """
import multiprocessing, sys, time

def serve():
    from lib.server import refuse_workers
    import monailabel.app
    refuse_workers()

if __name__ == "__main__":
    from lib.server import refuse_workers
    sys.modules["monailabel.app"] = sys
    refuse_workers()  # the only process of a server: nothing happens
    worker = multiprocessing.get_context("spawn").Process(target=serve)
    worker.start()
    worker.join()
    time.sleep(5)
    print("went on")
"""


def test_a_worker_of_a_server_of_several_ends_the_server_with_a_sentence(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(WORKER)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=APP,
        env={**os.environ, "PYTHONPATH": f"{APP}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "runs in one process: start it without --workers" in done.stderr
    assert "went on" not in done.stdout


def test_without_usable_weights_every_task_is_listed_and_refuses(poor_server, models):
    folder = poor_server.log.parent / "models"
    listed = poor_server.get("/info/").json()["models"]
    assert [model["ready"] for model in listed.values()] == [False] * 4
    assert set(refusals(poor_server)) == set(MODELS)
    for name in ("screening", "attributes", "segmentation"):
        shutil.copytree(models / name, folder / name)
    weights = next((folder / "segmentation").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100] + b"\x11" * 100)
    damaged = refusals(poor_server)
    assert set(damaged) == set(MODELS)
    assert all(weights.name in reason for reason in damaged.values())
    weights.write_bytes(whole)  # weights that come later are used without a restart
    assert refusals(poor_server) == {}


def test_a_stopped_server_leaves_no_temporary_file(poor_server):
    ct = poor_server.studies / "ct.nii.gz"
    files = [("files", (ct.name, ct.read_bytes()))]
    assert poor_server.request("PUT", "/session/", files=files).ok
    run = poor_server.studies / ".pasta" / "run"
    assert list(run.rglob("*.nii.gz"))
    poor_server.stop()
    assert list(run.iterdir()) == []
