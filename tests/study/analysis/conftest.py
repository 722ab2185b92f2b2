"""Tables as the paper prints them, and a made export, for all tests of the analysis."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("pandas", reason="the extra `study` is not installed")
pytest.importorskip("statsmodels", reason="the extra `study` is not installed")
sys.path.insert(0, str(Path(__file__).parent))

import made as made_study
import paper as paper_tables


@pytest.fixture(scope="session")
def paper():
    return paper_tables


@pytest.fixture(scope="session")
def made():
    return made_study


@pytest.fixture(scope="session")
def tables(made):
    return made.made_tables()


@pytest.fixture(scope="session")
def export(made, tables, tmp_path_factory):
    from pasta.study.analysis.export import read_export

    path = tmp_path_factory.mktemp("export") / "export.zip"
    return read_export(made.write_export(path, tables))
