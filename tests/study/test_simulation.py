"""A study in miniature: scripted readers, the real server, kills; the command checks all of it itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_simulated_study_with_kills_loses_nothing_and_times_right(tmp_path):
    pytest.importorskip("monailabel", reason="the server extra is not installed")
    pytest.importorskip("statsmodels", reason="the study extra is not installed")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.reader_study",
            "-o",
            str(tmp_path / "s"),
            "--kills",
            "3",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| (reads) | 96 |" in done.stdout
    assert "| acknowledged events lost | 0 |" in done.stdout
