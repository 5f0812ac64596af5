"""How the code is built: one direction of imports, rooms of a size, signatures that a reader keeps in mind."""

import ast
import re

import pytest
from tables import ROOT

FILES = [ROOT / "etl.py", *sorted((ROOT / "sparkify").glob("*.py"))]
TREES = {path.stem: ast.parse(path.read_text()) for path in FILES}
FUNCTIONS = [
    (name, node)
    for name, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]
PRIVATE = re.compile(r"\._(jvm|gateway|jsparkSession|jsc|jrdd|jdf|jvm|sc|session|endpoint|request_signer)\b")


def imported(tree):
    """The rooms of sparkify that a module imports, etl among them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sparkify":
            found.update(f"sparkify.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.removeprefix("sparkify.") for name in found if name.split(".")[0] in ("sparkify", "etl")}


def test_no_room_imports_etl_and_there_is_no_circle():
    needs = {name: imported(tree) & TREES.keys() for name, tree in TREES.items()}
    assert [name for name, rooms in needs.items() if "etl" in rooms] == []
    while needs:
        free = [name for name, rooms in needs.items() if not rooms & needs.keys()]
        assert free, f"a circle among {sorted(needs)}"
        for name in free:
            del needs[name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_is_above_400_lines(path):
    assert path.read_text().count("\n") <= 400


def test_functions_are_short_and_take_few_parameters():
    long, wide = [], []
    for name, node in FUNCTIONS:
        parameters = [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs] if argument.arg != "self"]
        if node.end_lineno - node.lineno + 1 > 60:
            long.append(f"{name}.{node.name}")
        if len(parameters) > 6:
            wide.append(f"{name}.{node.name}")
    assert (long, wide) == ([], [])


def test_public_functions_say_their_types():
    untyped = []
    for name, tree in TREES.items():
        of_classes = [item for node in tree.body if isinstance(node, ast.ClassDef) for item in node.body]
        for node in [*tree.body, *of_classes]:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                missing = [item.arg for item in arguments if item.arg not in ("self", "cls") and not item.annotation]
                if missing or (not node.returns and node.name != "later"):
                    untyped.append(f"{name}.{node.name}")
    assert untyped == []


def test_what_is_not_public_in_pyspark_is_used_in_two_rooms_alone():
    found = [path.stem for path in FILES if PRIVATE.search(path.read_text())]
    assert set(found) <= {"java", "session"}
