"""Fixtures that all tests may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """Folder of real CT: the environment variable PASTA_DATA, else ../shared/data."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PASTA_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real CT: PASTA_DATA names no folder and ../shared/data is absent")
    return folder
