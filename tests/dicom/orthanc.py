"""A real Orthanc with its DICOMweb plugin on a free port of the loopback."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests

START_SECONDS = 30


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def installed():
    """Path of Orthanc and of its DICOMweb plugin, or a skip that says how to get them."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    plugin = program and Path(program).parents[1] / "share/orthanc/plugins/libOrthancDicomWeb.so"
    if not plugin or not plugin.exists():
        pytest.skip("no Orthanc here; on Debian: apt-get install orthanc orthanc-dicomweb")
    return program, plugin


class Orthanc:
    """The server; `stop` and `start` again keep what it holds."""

    def __init__(self, folder):
        program, plugin = installed()
        self.port, self.dicom_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        self.rest = f"http://127.0.0.1:{self.port}"
        self.log = folder / "orthanc.log"
        self._program = program
        self._configuration = folder / "orthanc.json"
        self._configuration.write_text(
            json.dumps(
                {
                    "Name": "PASTA test",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": [str(plugin)],
                    "HttpPort": self.port,
                    "DicomPort": self.dicom_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": True,
                    "RegisteredUsers": {"pasta": "secret-of-the-test"},
                    "DicomWeb": {"Enable": True},
                }
            )
        )
        self.auth = ("pasta", "secret-of-the-test")
        self.process = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, str(self._configuration)], stdout=log, stderr=log
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.rest}/system", auth=self.auth, timeout=5).ok:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def stop(self):
        if self.process is not None:
            self.process.kill()  # as a crash would
            self.process.wait()
            self.process = None

    def upload(self, folder):
        for path in sorted(folder.glob("*.dcm")):
            requests.post(
                f"{self.rest}/instances", data=path.read_bytes(), auth=self.auth, timeout=30
            ).raise_for_status()

    def instances(self, modality):
        """Files of all instances of a modality."""
        query = {"Level": "Instance", "Query": {"Modality": modality}}
        found = requests.post(f"{self.rest}/tools/find", json=query, auth=self.auth, timeout=30)
        return [
            requests.get(
                f"{self.rest}/instances/{instance}/file", auth=self.auth, timeout=30
            ).content
            for instance in found.json()
        ]
