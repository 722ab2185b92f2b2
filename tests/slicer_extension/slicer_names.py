"""Which names of Slicer, CTK, Qt and VTK the extension uses, and where their own sources have them.

The list is committed (slicer_names.json) and compared by test_static.py. To make it again, with clones of
Slicer and CTK (git directories do) and the test packages installed:

    python tests/slicer_extension/slicer_names.py SLICER_CLONE CTK_CLONE
"""

import ast
import enum
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "slicer_extension" / "PASTAAid"
LIST = Path(__file__).with_suffix(".json")
ROOTS = ("slicer", "qt", "ctk", "vtk")


# ------------------------------------------------------------------------------------- what is used
def gui_files() -> list[Path]:
    """The files that may speak to Slicer."""
    return sorted(
        [MODULE / "PASTAAid.py", *MODULE.glob("PASTAAidGui/*.py"), *MODULE.glob("Testing/**/*.py")]
    )


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _chain(node: ast.AST) -> list[str]:
    """a.b.c as its parts; empty if it is no plain chain of names."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *parts[::-1]] if isinstance(node, ast.Name) else []


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in ROOTS
            and not node.level
        ):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in ROOTS)


def dotted_names() -> set[str]:
    """Every slicer.*, qt.*, ctk.* and vtk.* name, as long as it is written; .ui classes as slicer or ctk."""
    names: set[str] = set()
    for path in gui_files():
        tree = parsed(path)
        names.update(_imports(tree))
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            parts = (
                _chain(node) if isinstance(node, ast.Attribute) and id(node) not in inner else []
            )
            if parts and parts[0] in ROOTS:
                names.add(".".join(parts))
    for path in sorted(MODULE.glob("Resources/UI/*.ui")):
        for widget in ET.parse(path).getroot().iter("widget"):
            name = widget.get("class", "")
            root = (
                "ctk" if name.startswith("ctk") else "slicer" if name.startswith("qMRML") else "qt"
            )
            names.add(f"{root}.{name}")
    return {name for name in names if "." in name and "PASTAAid" not in name}


def method_names() -> set[str]:
    """Attributes of objects whose class is not written down, less those that the repository defines."""
    used, own = set(), set()
    for path in gui_files():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and _chain(node)[:1] not in (
                [each] for each in ROOTS
            ):
                used.add(node.attr)
    for path in (*MODULE.rglob("*.py"), *ROOT.glob("pasta/**/*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr) if _chain(node)[:1] == ["self"] else None
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = (each for target in targets for each in ast.walk(target))
                own.update(each.id for each in names if isinstance(each, ast.Name))
    for path in MODULE.glob("Resources/UI/*.ui"):
        own.update(each.get("name") for each in ET.parse(path).getroot().iter() if each.get("name"))
    return {name for name in used - own - _python_names() if not name.startswith("_")}


def _python_names() -> set[str]:
    """Attributes of Python's own and NumPy's objects that the extension handles."""
    import contextlib
    import dataclasses
    import datetime as dt
    import gzip
    import os
    import shutil
    import struct
    import tempfile
    import time
    import traceback
    import unittest
    import zlib

    import numpy as np
    from scipy import ndimage

    modules = (
        contextlib,
        dataclasses,
        gzip,
        json,
        os,
        re,
        shutil,
        struct,
        sys,
        tempfile,
        time,
        traceback,
        unittest,
        zlib,
    )
    objects = (
        "",
        b"",
        [],
        {},
        set(),
        (),
        0,
        0.0,
        Path(),
        slice(0),
        BaseException(),
        dt.datetime,
        type,
        dict,
    )
    more = (
        np,
        np.linalg,
        np.add,
        os.stat_result,
        np.zeros(1),
        np.uint8(0),
        np.dtype("u1"),
        ndimage,
        unittest.TestCase,
        re.compile(""),
    )
    names = {name for each in (*modules, *objects, *more) for name in dir(each)}
    return names | {"environ", "path", "fileobj"}


# ------------------------------------------------------------------------------------ where they are
class Sources:
    """A clone, searched by git."""

    def __init__(self, clone: str) -> None:
        self.git = [
            "git",
            "--git-dir",
            clone if (Path(clone) / "HEAD").exists() else f"{clone}/.git",
        ]
        self.commit = self._run("rev-parse", "HEAD").strip()
        self.files = self._run("ls-tree", "-r", "--name-only", "HEAD").splitlines()

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self.git, *arguments], capture_output=True, text=True, check=False)
        return done.stdout

    def file(self, name: str) -> str:
        """Path of the one file of that name, "" if there is none."""
        return next((path for path in self.files if path.rsplit("/", 1)[-1] == name), "")

    def where(self, word: str, *paths: str) -> str:
        """First line with the word in those files, as path:line."""
        lines = self._run("grep", "-n", "-w", "-e", word, "HEAD", "--", *paths).splitlines()
        return ":".join(lines[0].split(":")[1:3]) if lines else ""


def _in_class(sources: Sources, class_name: str, member: str) -> str:
    """Where a C++ class or one of its bases declares a member."""
    seen: list[str] = [class_name]
    for name in seen:
        header = sources.file(f"{name}.h")
        if not header:
            continue
        # macros of VTK declare Set and Get together
        bare = re.sub(r"^(Get|Set)", "", member)
        for word in dict.fromkeys((member, bare, bare.removesuffix("On").removesuffix("Off"))):
            found = sources.where(word, header)
            if found:
                return found
        text = sources._run("show", f"HEAD:{header}")
        declared = re.search(rf"class[^;{{]*\b{name}\b[^;{{]*?:\s*([^{{]*)\{{", text)
        if declared:
            seen += re.findall(r"public\s+(\w+)", declared.group(1))
    import vtk

    return f"VTK: {seen[-1]}" if hasattr(getattr(vtk, seen[-1], None), member) else ""


def _qt_classes() -> dict[str, set[str]]:
    from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

    classes: dict[str, set[str]] = {}
    for part in (QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets):
        for name in dir(part):
            thing = getattr(part, name)
            members = set(dir(thing))
            meta = getattr(thing, "staticMetaObject", None)
            if meta is not None:
                members |= {meta.property(index).name() for index in range(meta.propertyCount())}
            inner = [getattr(thing, each, None) for each in dir(thing)]
            for each in inner:  # enums are not scoped in PythonQt
                members |= set(each.__members__) if isinstance(each, enum.EnumMeta) else set()
            classes[name] = members
    return classes


def find(name: str, slicer: Sources, ctk: Sources, qt: dict[str, set[str]]) -> str:
    """Where a dotted name is declared, "" if nowhere."""
    root, first, *rest = name.split(".")
    if root == "vtk":
        import vtk
        import vtk.util.numpy_support

        thing = vtk
        for part in (first, *rest):
            thing = getattr(thing, part, None)
        return f"VTK {vtk.vtkVersion.GetVTKVersion()}" if thing is not None else ""
    if root == "qt":
        known = first in ("SIGNAL", "SLOT") or (
            first in qt and all(part in qt[first] for part in rest)
        )
        return "Qt" if known else ""
    if root == "ctk":
        header = ctk.file(f"{first}.h")
        return (
            _in_class(ctk, first, rest[0]) if rest and rest[0] != "__init__" else header
        ) and header
    if first in ("app", "mrmlScene"):
        classes = {
            "app": ("qSlicerApplication", "qSlicerCoreApplication"),
            "mrmlScene": ("vtkMRMLScene",),
        }[first]
        found = (
            (_in_class(slicer, cls, rest[0]) for cls in classes)
            if rest
            else iter([slicer.file("util.py")])
        )
        return next((each for each in found if each), "") or (
            "Qt" if rest and rest[0] in qt["QApplication"] else ""
        )
    if first == "modules":
        folder = next((path for path in slicer.files if f"/{rest[0]}/".lower() in path.lower()), "")
        return folder.rsplit("/", 1)[0]
    python = f"Base/Python/slicer/{first}"
    if f"{python}.py" in slicer.files or f"{python}/__init__.py" in slicer.files:
        return slicer.where(rest[0], f"{python}.py", f"{python}/*.py") if rest else python
    if not slicer.file(f"{first}.h"):
        return ""
    return _in_class(slicer, first, rest[0]) if rest else slicer.file(f"{first}.h")


def find_method(name: str, slicer: Sources, ctk: Sources, qt: dict[str, set[str]]) -> str:
    """Where any class declares an attribute of that name, "" if none does."""
    owner = next((cls for cls in sorted(qt) if cls[0] == "Q" and name in qt[cls]), "")
    if owner:
        return f"Qt: {owner}"
    bare = re.sub(r"^(Get|Set)|(On|Off)$", "", name)
    for sources in (slicer, ctk):
        for word in dict.fromkeys((name, bare)):
            for kind in ("*.h", "Base/Python/*.py", "*.py"):
                found = sources.where(word, kind)
                if found:
                    return found
    import vtk

    owner = next(
        (
            cls
            for cls in sorted(vars(vtk))
            if cls.startswith("vtk") and hasattr(getattr(vtk, cls), name)
        ),
        "",
    )
    return f"VTK: {owner}" if owner else ""


def main(slicer_clone: str, ctk_clone: str) -> int:
    """Write the list; refuse names that are nowhere."""
    slicer, ctk, qt = Sources(slicer_clone), Sources(ctk_clone), _qt_classes()
    names = {name: find(name, slicer, ctk, qt) for name in sorted(dotted_names())}
    methods = {name: find_method(name, slicer, ctk, qt) for name in sorted(method_names())}
    missing = [name for name, where in (names | methods).items() if not where]
    if missing:
        print(f"slicer_names: nowhere in the sources: {', '.join(missing)}", file=sys.stderr)
    document = {"slicer": slicer.commit, "ctk": ctk.commit, "names": names, "methods": methods}
    LIST.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
