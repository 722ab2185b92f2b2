"""Who may do what, tried on a server as `monailabel start_server` starts it: on all addresses."""

import base64
import io
import json
import re
import socket
import stat
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from serving import Server, body, save_ct

from pasta.client import Client, ServerError, local_file

ISSUER, AUDIENCE = "https://id.example/realms/ct", "pasta"
PER_MINUTE = 900
ROUTES = [
    *(("GET", path) for path in ("/", "/docs", "/redoc", "/openapi.json", "/favicon.ico")),
    *(("GET", path) for path in ("/static/x.css", "/ohif/", "/info/", "/auth/", "/logs/")),
    *(("GET", path) for path in ("/pasta/health", "/pasta/images", "/pasta/jobs", "/nowhere")),
    *(("GET", path) for path in ("/datastore/", "/datastore/image?image=ct", "/datastore/dataset")),
    *(("GET", path) for path in ("/train/", "/batch/infer/", "/scoring/", "/proxy/dicom/qido/x")),
    *(("HEAD", path) for path in ("/info/", "/datastore/image?image=ct")),
    *(("PUT", path) for path in ("/datastore/image", "/datastore/label?image=ct", "/session/")),
    *(("DELETE", path) for path in ("/datastore/image?id=ct", "/train/", "/session/x", "/model/x")),
    *(("POST", path) for path in ("/infer/pasta_segmentation?image=ct", "/reload", "/train/x")),
    *(
        ("POST", path)
        for path in ("/activelearning/first", "/scoring/x", "/pasta/coordinator/login")
    ),
]


class Provider:
    """An identity provider: its keys over HTTP, and tokens signed with them."""

    def __init__(self):
        self.key, self.other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        symmetric = {"kty": "oct", "kid": "weak", "k": base64.urlsafe_b64encode(b"x" * 32).decode()}
        self.document = {"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}, symmetric]}
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked += 1
                answer = json.dumps(provider.document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/certs"

    def claims(self, *roles, **more):
        now = int(time.time())
        return {
            "iss": ISSUER,
            "aud": ["account", AUDIENCE],
            "sub": "f:1234:erika.mustermann",
            "typ": "Bearer",
            "iat": now,
            "exp": now + 300,
            "preferred_username": "erika.mustermann",
            "realm_access": {"roles": [f"pasta-{role}" for role in roles]},
            **more,
        }

    def token(self, *roles, key=None, kid="k1", algorithm="RS256", **more):
        claims = {name: value for name, value in self.claims(*roles, **more).items() if value}
        return jwt.encode(claims, key or self.key, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def provider():
    made = Provider()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, models, provider):
    """A plain `start_server`, without --host; settings in a file."""
    folder = tmp_path_factory.mktemp("guarded")
    save_ct(folder / "studies" / "ct.nii.gz", body())
    (folder / "pasta.toml").write_text(
        f"[server]\nrequests_per_minute = {PER_MINUTE}\nbody_seconds = 2\nmax_upload_mb = 8\n"
        f'[oidc]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nkeys = "{provider.url}"\n'
        "[switches]\narchives = true\n"
    )
    config = str(folder / "pasta.toml")
    running = Server(
        folder / "studies", models, folder / "server.log", host=None, PASTA_CONFIG=config
    )
    yield running
    running.stop()


def ask(server, token, method, path, **options):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    options.setdefault("timeout", 30)
    headers |= options.pop("headers", {})
    return requests.request(method, server.url + path, headers=headers, **options)


def audit(server):
    path = server.studies / ".pasta" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- where it listens


def test_a_plain_start_listens_on_loopback_only(guarded):
    port = urlsplit(guarded.url).port
    listening = []
    for table in ("tcp", "tcp6"):
        path = Path("/proc/self/net") / table
        if path.exists():
            for line in path.read_text().splitlines()[1:]:
                address, state = line.split()[1], line.split()[3]
                if state == "0A" and int(address.split(":")[1], 16) == port:
                    listening.append(address.split(":")[0])
    assert listening == ["0100007F"]
    assert "instead of 0.0.0.0" in guarded.log.read_text()


def test_a_connection_to_another_address_is_refused():
    import asyncio
    import sys

    from serving import APP

    sys.path.insert(0, str(APP))
    try:
        from lib.guard import Guard
    finally:
        sys.path.remove(str(APP))
    from pasta.settings import Settings

    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    class Open:
        audit = type("Quiet", (), {"note": lambda *_a, **_k: None})()

        def local(self, path):
            return path

    scope = {"type": "http", "method": "GET", "path": "/info/", "headers": [], "query_string": b""}
    # what a proxy says of the client changes nothing
    scope |= {"server": ("192.168.1.7", 8000), "client": ("127.0.0.1", 1)}
    guard = Guard(None, Settings(), Open(), lambda _image: False)
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 403
    assert b"own machine only" in sent[1]["body"]


# --- tokens


def test_no_route_answers_a_stranger(guarded):
    for method, path in ROUTES:
        answer = ask(guarded, "", method, path)
        assert answer.status_code == 401, f"{method} {path}"
        assert "WWW-Authenticate" in answer.headers
        assert "ct.nii" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic cmVhZGVyOng="},
        {"Cookie": "pasta_coordinator=x; token=TOKEN"},
        {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-User": "admin"},
        {"Authorization": "Token TOKEN"},
        {"X-Api-Key": "TOKEN"},
    ],
)
def test_a_token_counts_in_its_one_place_only(guarded, headers):
    token = guarded.tokens["admin"]
    headers = {name: value.replace("TOKEN", token) for name, value in headers.items()}
    answer = ask(guarded, "", "GET", f"/info/?token={token}&access_token={token}", headers=headers)
    assert answer.status_code == 401


def test_roles_may_do_what_is_theirs(guarded):
    wanted = {
        ("GET", "/info/"): "reader",
        ("GET", "/pasta/images"): "reader",
        ("GET", "/datastore/dataset"): "coordinator",
        ("DELETE", "/datastore/label?id=ct&tag=nothing"): "coordinator",
        ("DELETE", "/datastore/image?id=nothing"): "admin",
        ("POST", "/batch/infer/nothing"): "admin",
        ("POST", "/train/nothing"): "admin",
        ("GET", "/logs/"): "admin",
    }
    order = ("reader", "coordinator", "admin")
    for (method, path), least in wanted.items():
        for role in order:
            status = ask(guarded, guarded.tokens[role], method, path).status_code
            may = order.index(role) >= order.index(least)
            assert (status not in (401, 403)) == may, f"{method} {path} as {role}: {status}"


def test_a_token_taken_out_of_the_file_opens_nothing_any_more(guarded):
    before = guarded.token_file.read_text()
    added = "t" * 43
    assert ask(guarded, added, "GET", "/info/").status_code == 401
    guarded.token_file.write_text(f"{before}reader R9 {added}\n")
    assert ask(guarded, added, "GET", "/info/").status_code == 200
    guarded.token_file.write_text(before)
    assert ask(guarded, added, "GET", "/info/").status_code == 401


def test_a_damaged_file_of_tokens_shuts_nobody_out_and_lets_nobody_in(guarded):
    before = guarded.token_file.read_text()
    guarded.token_file.write_text("admin\n")
    try:
        assert ask(guarded, guarded.tokens["reader"], "GET", "/info/").status_code == 200
        assert ask(guarded, "admin", "GET", "/info/").status_code == 401
    finally:
        guarded.token_file.write_text(before)


def test_programs_of_this_account_find_the_readers_token(guarded):
    client = Client(guarded.url)
    assert [image["id"] for image in client.images()] == ["ct"]
    path = local_file(urlsplit(guarded.url).port)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["token"] == guarded.tokens["reader"]
    path.chmod(0o644)  # somebody else could have read it, or written
    try:
        with pytest.raises(ServerError, match="token is needed"):
            client.images()
    finally:
        path.chmod(0o600)


# --- the identity provider


def test_roles_of_the_identity_provider_count(guarded, provider):
    for roles, shown in (
        (["reader"], "reader"),
        (["reader", "coordinator"], "coordinator"),
        (["admin"], "admin"),
    ):
        token = provider.token(*roles)
        status = ask(guarded, token, "GET", "/datastore/?output=all").status_code
        assert status == 200
        entry = audit(guarded)[-1]
        assert entry["role"] == shown
        assert re.fullmatch(r"oidc-[0-9a-f]{12}", entry["user"])
    assert ask(guarded, provider.token("reader"), "DELETE", "/datastore/image").status_code == 403


def test_forged_tokens_of_the_identity_provider_open_nothing(guarded, provider):
    public = provider.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    now = int(time.time())
    admin = provider.claims("admin")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"k1"}').rstrip(b"=")
    import hashlib
    import hmac

    payload = base64.urlsafe_b64encode(json.dumps(admin).encode()).rstrip(b"=")
    code = hmac.new(public, head + b"." + payload, hashlib.sha256).digest()
    confused = b".".join([head, payload, base64.urlsafe_b64encode(code).rstrip(b"=")]).decode()
    good = provider.token("admin")
    forged = {
        "other key": provider.token("admin", key=provider.other),
        "unknown key": provider.token("admin", key=provider.other, kid="k2"),
        "weak key of the set": provider.token("admin", key="x" * 32, kid="weak", algorithm="HS256"),
        "HMAC with the public key": confused,
        "no signature": jwt.encode(admin, None, algorithm="none", headers={"kid": "k1"}),
        "signature cut off": good.rpartition(".")[0] + ".",
        "changed": good[:-8] + "AAAAAAAA",
        "another algorithm": provider.token("admin", algorithm="RS512"),
        "run out": provider.token("admin", exp=now - 120),
        "not yet": provider.token("admin", nbf=now + 600),
        "without end": provider.token("admin", exp=None),
        "other audience": provider.token("admin", aud="account"),
        "other issuer": provider.token("admin", iss="https://evil.example/realms/ct"),
        "an ID token": provider.token("admin", typ="ID"),
        "no role": provider.token(),
        "role elsewhere": provider.token(roles=["pasta-admin"]),
        "no subject": provider.token("admin", sub=None),
    }
    assert ask(guarded, good, "GET", "/info/").status_code == 200
    for name, token in forged.items():
        assert ask(guarded, token, "GET", "/info/").status_code == 401, name


def test_made_up_key_names_do_not_reach_the_provider(guarded, provider):
    assert ask(guarded, provider.token("reader"), "GET", "/info/").status_code == 200
    before = provider.asked
    for number in range(20):
        token = provider.token("reader", key=provider.other, kid=f"made-up-{number}")
        assert ask(guarded, token, "GET", "/info/").status_code == 401
    assert provider.asked <= before + 1


# --- how much


def test_too_many_requests_of_one_token_wait_and_others_do_not(guarded):
    before = guarded.token_file.read_text()
    eager = "e" * 43
    guarded.token_file.write_text(f"{before}reader eager {eager}\n")
    try:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {eager}"
            for _ in range(PER_MINUTE * 2):
                answer = session.get(f"{guarded.url}/pasta/jobs", timeout=30)
                if answer.status_code == 429:
                    break
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert ask(guarded, guarded.tokens["admin"], "GET", "/info/").status_code == 200
    finally:
        guarded.token_file.write_text(before)


def test_a_client_that_falls_silent_is_let_go(guarded):
    parts = urlsplit(guarded.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        token = guarded.tokens["reader"]
        connection.sendall(
            f"PUT /datastore/image HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000\r\n\r\n--b\r\n".encode()
        )
        began = time.monotonic()
        answer = connection.recv(4096)
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert 1 < time.monotonic() - began < 10
    assert guarded.leftovers() == []


def test_a_stranger_cannot_make_the_server_read_an_upload(guarded):
    parts = urlsplit(guarded.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(
            b"PUT /datastore/image HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; "
            b"boundary=b\r\nContent-Length: 1000000000\r\n\r\n"
        )
        sent = 0
        try:
            while sent < 64 << 20:
                sent += connection.send(b"x" * 65536)
        except OSError:
            pass
        assert sent < 64 << 20
    assert guarded.leftovers() == []


# --- archives, where they are switched on


def packed(kind):
    """Archives that attack who unpacks them."""
    buffer = io.BytesIO()
    if kind == "bomb":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.dcm", bytes(200 << 20))
    elif kind == "password":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.dcm", b"x")
        data = bytearray(buffer.getvalue())
        data[6] |= 1  # the flag of encryption, in both headers
        data[data.index(b"PK\x01\x02") + 8] |= 1
        return bytes(data)
    elif kind == "many":
        with zipfile.ZipFile(buffer, "w") as archive:
            for number in range(5001):
                archive.writestr(f"{number}", b"")
    elif kind == "empty":
        with zipfile.ZipFile(buffer, "w"):
            pass
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in ("../../escaped.txt", "/tmp/escaped-pasta.txt", "sitecustomize.py"):
                member = tarfile.TarInfo(name)
                member.size = 4
                archive.addfile(member, io.BytesIO(b"evil"))
            for link in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
                member = tarfile.TarInfo("link")
                member.type, member.linkname = link, "/etc/passwd"
                archive.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["bomb", "password", "many", "empty"])
def test_an_archive_that_is_too_much_or_nothing_is_refused(guarded, kind):
    files = [("files", ("x.zip", packed(kind)))]
    token = guarded.tokens["reader"]
    answer = ask(guarded, token, "PUT", "/session/?uncompress=true", files=files)
    assert answer.status_code == 422
    assert guarded.leftovers() == []


def test_names_and_links_in_an_archive_lead_nowhere(guarded):
    files = [("files", ("x.tar.gz", packed("paths")))]
    token = guarded.tokens["reader"]
    answer = ask(guarded, token, "PUT", "/session/?uncompress=true", files=files)
    assert answer.status_code == 200
    session = answer.json()["session_id"]
    found = [path for path in guarded.studies.parent.rglob("*") if path.is_file()]
    assert not [path for path in found if "escaped" in path.name or path.suffix == ".py"]
    assert not Path("/tmp/escaped-pasta.txt").exists()
    names = sorted(path.name for path in found if session in path.parts and path.suffix == ".dcm")
    assert names == ["00000.dcm", "00001.dcm", "00002.dcm"]
    answer = ask(guarded, token, "POST", f"/infer/pasta_segmentation?session_id={session}")
    assert answer.status_code == 422
    assert ask(guarded, token, "DELETE", f"/session/{session}").status_code == 200
    assert guarded.leftovers() == []


# --- pages, headers, log


def test_the_page_of_routes_needs_no_other_machine(guarded):
    token = guarded.tokens["reader"]
    for path in ("/", "/docs"):
        page = requests.get(guarded.url + path, auth=("any", token), timeout=30)
        assert page.status_code == 200
        assert "/pasta/images" in page.text
        assert "<script" not in page.text
        assert not re.search(r"https?://", page.text)
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert requests.get(f"{guarded.url}/info/", auth=("any", token), timeout=30).status_code == 401
    described = ask(guarded, token, "GET", "/openapi.json").json()["paths"]
    assert "/infer/{model}" in described
    assert not [path for path in described if path.startswith(("/proxy", "/model", "/ohif"))]


def test_every_answer_says_what_a_browser_may_do_with_it(guarded):
    for token in ("", guarded.tokens["reader"]):
        for path in ("/", "/info/", "/nowhere", "/datastore/image?image=ct"):
            answer = ask(guarded, token, "GET", path)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-ID"])


def test_the_audit_log_tells_who_did_what_and_names_nobody(guarded, provider):
    answer = ask(guarded, guarded.tokens["reader"], "GET", "/datastore/image?image=ct")
    ask(guarded, guarded.tokens["reader"], "DELETE", "/datastore/image?id=ct")
    ask(guarded, provider.token("reader"), "GET", "/datastore/image?image=Mustermann^Erika")
    ask(guarded, "", "GET", "/pasta/images/Mustermann")
    entries = audit(guarded)[-4:]
    got = [(e["user"], e["role"], e["action"], e["case"], e["status"]) for e in entries]
    assert got[0] == ("test-reader", "reader", "GET /datastore/image", "ct", 200)
    assert got[1] == ("test-reader", "reader", "DELETE /datastore", "ct", 403)
    assert (got[2][0][:5], *got[2][1:]) == ("oidc-", "reader", "GET /datastore/image", "", 422)
    assert got[3] == ("", "", "GET /pasta", "", 401)
    assert entries[0]["request"] == answer.headers["X-Request-ID"]
    path = guarded.studies / ".pasta" / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_text() + guarded.log.read_text(errors="replace")
    for secret in (*guarded.tokens.values(), "ustermann", "eyJ"):
        assert secret not in written


def test_what_the_server_writes_is_for_its_account_alone(guarded):
    files = {"file": ("x.nii.gz", (guarded.studies / "ct.nii.gz").read_bytes())}
    assert ask(guarded, guarded.tokens["reader"], "PUT", "/datastore/image", files=files).ok
    for path in (guarded.studies / ".pasta").rglob("*"):
        if path.is_file():
            assert not path.stat().st_mode & 0o077, path


def test_the_first_start_makes_tokens_and_the_stop_takes_all_else_away(tmp_path, models):
    save_ct(tmp_path / "studies" / "ct.nii.gz", body())
    made = tmp_path / "studies" / ".pasta" / "tokens"
    made_by_test = tmp_path / "server.tokens"
    running = None

    class First(Server):
        def _wait(self):
            deadline = time.monotonic() + 200
            while not made.exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            token = re.search(r"^admin admin (\S{43})$", made.read_text(), re.MULTILINE)[1]
            self.headers = {"Authorization": f"Bearer {token}"}
            super()._wait()

    running = First(
        tmp_path / "studies",
        models,
        tmp_path / "server.log",
        PASTA_TOKENS="",
        PASTA_ALLOW_RELOAD="",
    )
    try:
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        roles = [line.split()[0] for line in made.read_text().splitlines() if line[0] != "#"]
        assert roles == ["reader", "coordinator", "admin"]
        old = ask(running, made_by_test.read_text().split()[2], "GET", "/info/")
        assert old.status_code == 401
        assert running.get("/info/").status_code == 200
        local = local_file(urlsplit(running.url).port)
        assert local.exists()
    finally:
        running.stop()
    assert not local.exists()
    assert list((tmp_path / "studies" / ".pasta" / "run").iterdir()) == []


def test_a_way_out_of_the_pacs_proxy_is_shut_also_where_it_is_switched_on():
    import sys

    from serving import APP

    sys.path.insert(0, str(APP))
    try:
        from lib.access.rules import rule_for
    finally:
        sys.path.remove(str(APP))
    on = frozenset({"pacs_proxy"})
    assert rule_for("GET", "/proxy/dicom/qido/studies", on)
    assert rule_for("GET", "/proxy/dicom/qido/studies", frozenset()) is None
    for way in ("../../system", "..", "wado/%2e%2e/system", "wado//system", "..\\system", "a/./b"):
        assert rule_for("GET", f"/proxy/dicom/{way}", on) is None, way
