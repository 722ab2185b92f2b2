"""The Lib is found as Slicer finds it: by the folder of the module on the path."""

import importlib.util
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
MODULE = REPOSITORY / "slicer_extension" / "PASTAAid"
if str(MODULE) not in sys.path:
    sys.path.insert(0, str(MODULE))


@pytest.fixture(scope="session")
def serving():
    """The helpers of the server's own tests."""
    pytest.importorskip("monailabel", reason="the server extra is not installed")
    if "serving" not in sys.modules:
        path = REPOSITORY / "tests" / "apps" / "serving.py"
        spec = importlib.util.spec_from_file_location("serving", path)
        sys.modules["serving"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["serving"])
    return sys.modules["serving"]
