"""The coordinator's pages: behind the admin token, and as people see them in a browser."""

import io
import os
import re
import shutil
import subprocess
import time
import zipfile

import pytest
import requests
from studying import ADMIN, Client, make_study

PAGES = "/pasta/coordinator/"
BEARER = {"Authorization": f"Bearer {ADMIN}"}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browsed(study_server, study_folder, models, tmp_path_factory):
    """A study with two readers' sessions in it, one of them still live and paused."""
    images = [f"case-{number}" for number in range(9)]
    codes = make_study(
        study_folder / "shown", models, images, study_id="shown", training=["case-8"]
    )
    folder = tmp_path_factory.mktemp("readers")
    clients = []
    for number, code in enumerate(("J1", "S1")):
        reader = Client(study_server.url, "shown", codes[code], folder)
        assert reader.login().ok
        while "case" in (case := reader.next().json()) and case["position"] < 4:
            assert reader.read(case, seconds=20 + 7 * case["position"] + 11 * number).ok
        reader.upload()
        clients.append(reader)
    clients[1].call("POST", "/pasta/study/pause", json={"reason": "telephone"})
    return clients


@pytest.fixture
def cookie(study_server):
    given = {"token": ADMIN}
    url = f"{study_server.url}{PAGES}login"
    answer = requests.post(url, data=given, allow_redirects=False, timeout=30)
    assert answer.status_code == 303
    set_cookie = answer.headers["Set-Cookie"].lower()
    assert "httponly" in set_cookie
    assert "samesite=strict" in set_cookie
    return dict(answer.cookies)


def test_pages_show_nothing_without_the_admin_token(study_server, browsed):
    for path in (PAGES, f"{PAGES}study/shown"):
        page = study_server.get(path)
        assert "Admin token" in page.text
        assert "Liver, a small study" not in page.text
    wrong = requests.post(f"{study_server.url}{PAGES}login", data={"token": "wrong"}, timeout=30)
    assert wrong.status_code == 401
    for path in ("api/studies", "api/shown", "api/shown/export"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, browsed[0].headers):
            assert study_server.get(PAGES + path, headers=headers).status_code == 401
        stranger = {"pasta_coordinator": "x" * 43}
        assert study_server.get(PAGES + path, cookies=stranger).status_code == 401


def test_a_cookie_ends_with_sign_out(study_server, cookie):
    url = f"{PAGES}api/studies"
    assert study_server.get(url, cookies=cookie).status_code == 200
    study_server.request("POST", f"{PAGES}logout", cookies=cookie)
    assert study_server.get(url, cookies=cookie).status_code == 401


def test_the_page_of_a_study_counts_what_readers_did(study_server, browsed, cookie):
    found = study_server.get(f"{PAGES}api/shown", headers=BEARER).json()
    progress = {reader["reader"]: reader for reader in found["progress"]}
    assert progress["J1"]["done"] == progress["S1"]["done"] == 3
    assert progress["J2"]["done"] == 0
    live = {session["reader"]: session for session in found["sessions"]}
    assert set(live) == {"J1", "S1"}
    assert live["S1"]["paused"]
    assert not live["J1"]["paused"]
    quality = {row["reader"]: row for row in found["quality"]}
    assert quality["J1"]["reads"] == 3
    assert quality["J1"]["median_seconds"] == pytest.approx(20 + 7 * 2)
    assert [point["seconds"] for point in quality["J1"]["points"]] == pytest.approx([27, 34, 41])
    page = study_server.get(f"{PAGES}study/shown", cookies=cookie).text
    for text in ("Liver, a small study", "J1", "paused", "Data quality", "api/shown/export"):
        assert text in page
    assert "positive" not in page  # no truth


def test_pages_load_nothing_from_elsewhere(study_server, cookie, browsed):
    page = study_server.get(f"{PAGES}study/shown", cookies=cookie)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for text in (
        page.text,
        *(study_server.get(f"{PAGES}assets/{name}").text for name in ("style.css", "page.js")),
    ):
        assert not re.findall(r"(?:https?:)?//[a-z]", text.replace("// ", ""))
    assert "style=" not in page.text  # the policy forbids it
    assert study_server.get(f"{PAGES}assets/../study.html").status_code == 404


def test_an_export_is_the_same_zip_twice_and_refused_once_something_was_changed(
    study_server, study_folder, browsed, cookie
):
    pytest.importorskip("pyarrow", reason="the extra `study` is not installed")
    url = f"{PAGES}api/shown/export"
    first = study_server.get(url, headers=BEARER)
    assert first.status_code == 200, first.text
    assert first.content == study_server.get(url, cookies=cookie).content
    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        names = archive.namelist()
        assert "reads.csv" in names
        assert b"case-1" not in b"".join(archive.read(name) for name in names)
    path = study_folder / "shown" / "logs" / f"{browsed[0].seat['session_id']}.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"load_start", b"load_stare", 1))
    try:
        refused = study_server.get(url, headers=BEARER)
        assert refused.status_code == 409
        page = study_server.get(url, cookies=cookie, headers={"Accept": "text/html"})
        assert "Nothing was exported" in page.text
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = study_server.get(f"{PAGES}api/shown", headers=BEARER).json()["problems"]
            if broken := [p for p in found if p["kind"] == "Broken record"]:
                break
        assert broken
        more = study_server.get(url, headers=BEARER, params={"exploratory": True})
        assert more.status_code == 200
    finally:
        path.write_bytes(data)
    assert study_server.get(url, headers=BEARER).content == first.content


def test_pages_only_show(study_server, cookie, browsed):
    for path in (PAGES, f"{PAGES}study/shown"):
        page = study_server.get(path, cookies=cookie).text
        assert re.findall(r'<form method="post" action="([^"]+)"', page) == [f"{PAGES}logout"]


@needs_chromium
def test_pages_are_whole_in_a_browser(study_server, browsed, cookie, tmp_path):
    """Headless Chromium shows the pages, runs their script, and has nothing to complain about."""
    for name, path, expected in (
        ("login", PAGES, "Admin token"),
        ("studies", f"{PAGES}?", "Liver, a small study"),
        ("study", f"{PAGES}study/shown", "updated "),  # it has renewed itself
    ):
        shown = browse(study_server.url, path, None if name == "login" else cookie, tmp_path, name)
        assert expected in shown


def browse(url, path, cookie, folder, name):
    """Open a page in Chromium, which is given the cookie by a small proxy; returns the DOM."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = requests.get(f"{url}{self.path}", cookies=cookie, timeout=60)
            self.send_response(answer.status_code)
            for header in ("Content-Type", "Content-Security-Policy"):
                if header in answer.headers:
                    self.send_header(header, answer.headers[header])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_args):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    folder = os.environ.get("PASTA_SCREENSHOTS") or folder
    try:
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={folder}/profile-{name}",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--window-size=1360,1900",
            f"--screenshot={folder}/{name}.png",
            "--dump-dom",
            f"http://127.0.0.1:{proxy.server_address[1]}{path}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    finally:
        proxy.shutdown()
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not errors, errors
    return done.stdout
