"""The Lib needs nothing of Slicer, and of pasta only what is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "slicer_extension" / "PASTAAid" / "PASTAAidLib"
FILES = sorted(FOLDER.glob("*.py"))
LIGHT = ("pasta.errors", "pasta.client", "pasta.labels", "pasta.report", "pasta.study")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_lib_imports_only_what_slicer_has(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            assert (
                top in sys.stdlib_module_names
                or top in ("requests", "numpy", "PASTAAidLib")
                or name == "pasta"
                or name.startswith(LIGHT)
            ), name


def test_the_lib_loads_nothing_heavy():
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER.parent)!r});"
        "import PASTAAidLib.settings, PASTAAidLib.background, PASTAAidLib.cases;"
        "import PASTAAidLib.connection, PASTAAidLib.drafts;"
        "heavy = {'torch', 'scipy', 'nibabel', 'SimpleITK', 'slicer', 'qt'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
