"""What can be seen of the Slicer extension without running it."""

import ast
import importlib.util
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "slicer_extension"
MODULE = EXTENSION / "PASTAAid"
FORBIDDEN_IN_LIB = {
    "qt",
    "ctk",
    "slicer",
    "vtk",
    "PythonQt",
    "PySide6",
    "mrml",
    "sitkUtils",
    "DICOMLib",
}
BUNDLED = {"numpy", "scipy", "requests", "pasta", "PASTAAidLib", "PASTAAidGui"}


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


names = loaded(Path(__file__).with_name("slicer_names.py"))
reserved = loaded(ROOT / "tests" / "slicer_host" / "reserved_keys.py")
# messages of exceptions, some of a background thread, in which Slicer's translator must not be asked; a name
NOT_SHOWN = (["msg"], ["message"], ["sentence"], ["contributors"])
NO_WORDS = {"ContainsRepresentation", "abandon", "note"}  # codes of MRML and of the study's log
GUI = [path for path in names.gui_files() if "Testing" not in path.parts]


def cmake_list(name):
    text = re.sub(r"#.*", "", (MODULE / "CMakeLists.txt").read_text(encoding="utf-8"))
    content = re.search(rf"set\({name}\s([^)]*)\)", text).group(1)
    return content.split()


def relative(paths, folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in paths if "__pycache__" not in path.parts
    )


def imported(path):
    for node in ast.walk(names.parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


# -------------------------------------------------------------------------------------------- package
def test_cmake_lists_every_file_of_the_module_and_no_other():
    scripts = [MODULE / "PASTAAid.py", *MODULE.glob("PASTAAid[GL]*/**/*.py")]
    resources = [path for path in (MODULE / "Resources").rglob("*") if path.is_file()]
    assert sorted(cmake_list("MODULE_PYTHON_SCRIPTS")) == relative(scripts, MODULE)
    assert sorted(cmake_list("MODULE_PYTHON_RESOURCES")) == relative(resources, MODULE)


def test_cmake_takes_along_whatever_of_the_core_the_module_imports():
    scripts, resources = cmake_list("CORE_PYTHON_SCRIPTS"), cmake_list("CORE_PYTHON_RESOURCES")
    assert [name for name in scripts + resources if not (ROOT / name).is_file()] == []
    assert resources == relative((ROOT / "pasta" / "report").glob("*.json"), ROOT)
    listed = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in scripts
    }
    wanted = {
        module
        for path in [
            *names.gui_files(),
            *MODULE.glob("PASTAAidLib/*.py"),
            *(ROOT / name for name in scripts),
        ]
        for module in imported(path)
        if module.split(".")[0] == "pasta"
    }
    assert wanted <= listed


def test_the_module_needs_no_package_that_slicer_does_not_bring():
    import sys

    for path in [*names.gui_files(), *MODULE.glob("PASTAAidLib/*.py")]:
        roots = {module.split(".")[0] for module in imported(path)}
        assert roots <= BUNDLED | FORBIDDEN_IN_LIB | set(sys.stdlib_module_names), path.name


def test_the_catalogue_entry_is_as_schema_1_0_1_wants_it():
    entry = json.loads((EXTENSION / "PASTAAid.json").read_text(encoding="utf-8"))
    known = {"$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies"}
    known |= {"build_subdirectory", "enabled", "tier"}
    assert {"$schema", "category", "scm_url"} <= set(entry) <= known
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert 1 <= entry["tier"] <= 5


def test_the_root_describes_the_extension():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'set\(EXTENSION_{name} ".+"\)', text), name
    assert text.index("find_package(Slicer") < text.index("add_subdirectory(slicer_extension)")


@pytest.mark.parametrize("path", ["PASTAAid.png", "PASTAAid/Resources/Icons/PASTAAid.png"])
def test_the_icon_has_the_size_of_the_catalogue(path):
    from PIL import Image

    with Image.open(EXTENSION / path) as icon:
        assert icon.size == (128, 128)
        assert icon.mode == "RGBA"


# --------------------------------------------------------------------------------------------- layers
def test_lib_knows_neither_qt_nor_slicer():
    files = list((MODULE / "PASTAAidLib").rglob("*.py"))
    assert files
    for path in files:
        roots = {module.split(".")[0] for module in imported(path)}
        assert not roots & (FORBIDDEN_IN_LIB | {"PASTAAidGui"}), path.name


# ------------------------------------------------------------------------------------------- .ui files
def objects(ui):
    root = ET.parse(MODULE / "Resources" / "UI" / f"{ui}.ui").getroot()
    return {each.get("name") for tag in ("widget", "layout", "action") for each in root.iter(tag)}


def test_every_name_of_a_ui_file_that_code_uses_is_there():
    for path in GUI:
        page = path.stem.replace("Panel", "PASTAAid")
        ui = page if (MODULE / "Resources" / "UI" / f"{page}.ui").exists() else "PASTAAid"
        known = objects(ui)
        for node in ast.walk(names.parsed(path)):
            chain = names._chain(node) if isinstance(node, ast.Attribute) else []
            if "ui" in chain[:-1] and chain[: chain.index("ui")] in ([], ["self"]):
                name = chain[chain.index("ui") + 1]
                assert name in known, f"{path.name}:{node.lineno}: no {name} in {ui}.ui"


@pytest.mark.parametrize(
    "path", sorted((MODULE / "Resources" / "UI").glob("*.ui")), ids=lambda path: path.stem
)
def test_widgets_with_a_scene_get_it_from_the_top_of_their_ui_file(path):
    root = ET.parse(path).getroot()
    top = root.find("widget")
    fed = {
        each.findtext("receiver")
        for each in root.iter("connection")
        if each.findtext("sender") == top.get("name")
        and each.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and each.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    needing = {
        each.get("name")
        for each in root.iter("widget")
        if each.get("class", "").startswith("qMRML")
    }
    needing.discard(top.get("name"))
    assert needing <= fed
    assert not needing or top.get("class") == "qMRMLWidget"


# ------------------------------------------------------------------------------------------- sentences
def calls_of(tree, name):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def is_prose(text):
    """Two words or more, and neither markup, style sheet, XML nor a C++ signature."""
    plain = re.sub(r"<[^>]*>|&\w+;", " ", text)
    return bool(re.search(r"[A-Za-z]{2,},? [a-z]{2,}", plain)) and not re.search(r"[{};<=]", plain)


def no_words_for_readers(tree):
    """Parts of a file whose strings are translated already, or never shown."""
    yield from calls_of(tree, "_")
    for node in tree.body:  # names of the program: effects, presets, contexts
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(targets[0], ast.Name) and targets[0].id.isupper():
            yield node
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            yield node.body[0]
        elif isinstance(node, ast.Raise | ast.Compare) or (
            isinstance(node, ast.Assign) and names._chain(node.targets[0])[-1:] in NOT_SHOWN
        ):  # what is shown of an exception comes from Lib
            yield node
        elif isinstance(node, ast.Dict):
            yield from filter(None, node.keys)
        elif isinstance(node, ast.Subscript):
            yield node.slice
        elif isinstance(node, ast.Call):
            of_log = names._chain(node.func)[:1] == ["_log"]
            if of_log or getattr(node.func, "attr", "") in NO_WORDS:
                yield node
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and calls_of(node.elts[1], "_"):
            yield node.elts[0]  # a value and its words


@pytest.mark.parametrize("path", GUI, ids=lambda path: path.stem)
def test_every_sentence_of_the_panel_can_be_translated(path):
    tree = names.parsed(path)
    allowed = {id(inner) for each in no_words_for_readers(tree) for inner in ast.walk(each)}
    untold = [
        f"{path.name}:{node.lineno}: {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in allowed
        and is_prose(node.value)
    ]
    assert untold == []


@pytest.mark.parametrize("path", GUI, ids=lambda path: path.stem)
def test_what_is_translated_is_one_plain_literal(path):
    # lupdate reads sources: a variable or an f-string would never be found by it
    for call in calls_of(names.parsed(path), "_"):
        plain = len(call.args) == 1 and isinstance(call.args[0], ast.Constant)
        assert plain, f"{path.name}:{call.lineno}"


@pytest.mark.parametrize("path", GUI, ids=lambda path: path.stem)
def test_labels_that_are_set_in_code_can_be_translated(path):
    setters = {
        "setText",
        "setToolTip",
        "setTitle",
        "setPlaceholderText",
        "setWindowTitle",
        "setStatusTip",
    }
    setters |= {
        "addTab",
        "addPanel",
        "showMessage",
        "addAction",
        "QLabel",
        "QPushButton",
        "QToolButton",
    }
    for node in ast.walk(names.parsed(path)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        for argument in node.args if name in setters else ():
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                letters = re.search(r"[A-Za-z]{2,}", argument.value)
                assert not letters or argument.value == "PASTA-AID", f"{path.name}:{node.lineno}"


# --------------------------------------------------------------------------------- names and shortcuts
def test_every_name_of_slicer_ctk_qt_and_vtk_was_found_in_their_sources():
    document = json.loads(names.LIST.read_text(encoding="utf-8"))
    assert re.fullmatch(r"[0-9a-f]{40}", document["slicer"])
    found = {
        name for kind in ("names", "methods") for name, where in document[kind].items() if where
    }
    missing = (names.dotted_names() | names.method_names()) - found
    assert not missing, (
        f"look them up: python {names.__file__} SLICER_CLONE CTK_CLONE; not on the list: {missing}"
    )


def test_no_shortcut_is_one_of_slicers():
    # a key sequence as it stands in the sources, in code or in a .ui file
    modified = r"(?:Ctrl|Alt|Shift|Meta)\+[\w+`\[\]]+"
    single = r"F\d{1,2}"
    found = {}
    for path in GUI:
        for node in ast.walk(names.parsed(path)):
            if isinstance(node, ast.Constant) and re.fullmatch(
                f"{modified}|{single}", str(node.value)
            ):
                found[node.value] = path.name
    for path in (MODULE / "Resources" / "UI").glob("*.ui"):
        for each in ET.parse(path).getroot().iter("property"):
            if each.get("name") == "shortcut":
                found[each.findtext("string")] = path.name
    assert len(found) > 10
    assert {key: file for key, file in found.items() if key in reserved.RESERVED_KEYS} == {}
