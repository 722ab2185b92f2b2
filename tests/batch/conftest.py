import importlib.util
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="the extra `batch` is not installed")

_path = Path(__file__).parents[1] / "apps" / "serving.py"
if "serving" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("serving", _path)
    sys.modules["serving"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["serving"])
_serving = sys.modules["serving"]


@pytest.fixture(scope="package", autouse=True)
def one_core():
    """Two threads on cores that others use too wait for one another most of the time."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def small_models(tmp_path_factory):
    return _serving.save_models(tmp_path_factory.mktemp("batch-models"))


@pytest.fixture(scope="session")
def cts(tmp_path_factory):
    """Six small CTs, and one between them whose second half is missing."""
    folder = tmp_path_factory.mktemp("batch-cts")
    for number in range(6):
        _serving.save_ct(folder / f"case-{number}.nii.gz", _serving.body((26, 24, 22), number))
    whole = (folder / "case-1.nii.gz").read_bytes()
    (folder / "case-1b.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="package")
def finished(one_core, cts, small_models, tmp_path_factory):
    """A batch that nothing disturbed."""
    from pasta.batch.cases import find_cases
    from pasta.batch.folder import BatchFolder
    from pasta.batch.running import Settings, run_batch
    from pasta.batch.tables import write_tables

    output = tmp_path_factory.mktemp("batch-finished")
    cases = find_cases(cts)
    summary = run_batch(cases, output, Settings(models=small_models), workers=0)
    write_tables(BatchFolder(output), [case.id for case in cases])
    return output, summary
