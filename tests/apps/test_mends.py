"""Every trap of MONAI Label 0.8.5 that a plain `start_server` meets; each test fails without its mend."""

import base64
import importlib.metadata
import json
import re
import subprocess
import sys
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from packaging.specifiers import SpecifierSet
from serving import APP, REPOSITORY, Server, body, save_ct

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


def test_what_a_killed_server_left_is_gone_after_the_next_start(tmp_path, models):
    studies = tmp_path / "studies"
    ct = save_ct(studies / "ct.nii.gz", body())
    run = studies / ".pasta" / "run"
    first = Server(studies, models, tmp_path / "first.log")
    files = [("files", ("x.nii.gz", ct.read_bytes()))]
    assert first.request("PUT", "/session/", files=files).ok
    assert list(run.rglob("*.nii.gz"))
    first.process.kill()
    first.process.wait()
    assert list(run.rglob("*.nii.gz"))  # so somebody has to remove it
    second = Server(studies, models, tmp_path / "second.log")
    try:
        assert not list(run.rglob("*.nii.gz"))
    finally:
        second.stop()
    assert not list(run.iterdir())


@pytest.mark.parametrize("wrong", ["none", "damaged"])
def test_without_usable_weights_every_task_is_listed_and_refuses(tmp_path, models, wrong):
    import shutil

    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    weights = next((folder / "segmentation").glob("*.safetensors"))
    if wrong == "damaged":
        content = bytearray(weights.read_bytes())
        content[-100:] = b"\x11" * 100
        weights.write_bytes(bytes(content))
    else:
        shutil.rmtree(folder / "segmentation")
    save_ct(tmp_path / "studies" / "ct.nii.gz", body())
    server = Server(tmp_path / "studies", folder, tmp_path / "log")
    try:
        assert len(server.get("/info/").json()["models"]) == 4
        for model in ("pasta_segmentation", "pasta_diagnosis", "pasta_screening", "pasta_report"):
            response = server.infer(model, image="ct")
            assert response.status_code == 503, response.text
            assert "weights" in response.json()["detail"] or "SHA" in response.json()["detail"]
        if wrong == "none":  # weights that come later are used without a restart
            shutil.copytree(models / "segmentation", folder / "segmentation")
            assert server.infer("pasta_segmentation", image="ct").status_code == 200
        assert server.leftovers() == []
    finally:
        server.stop()
