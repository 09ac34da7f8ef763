"""Who may import whom: the table of docs/architecture.md, held; and the limits of size.

Read from the source, so it needs nothing installed and sees every branch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "raypacs"

LONGEST_MODULE = 450
LONGEST_FUNCTION = 60

VOCABULARY = {
    *("errors", "records", "uids", "dataset", "dicom", "dicom_json", "config", "layout", "link"),
    *("moments", "process", "parsing", "compression", "object_store", "autopilot"),
}

# Room to the rooms (packages or modules directly in raypacs) it may import, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "records": set(),
    "parsing": {"errors"},
    "compression": set(),
    "object_store": set(),
    "autopilot": {"compression", "errors", "moments", "object_store", "parsing"},
    "config": {"autopilot", "errors", "parsing", "compression"},
    "layout": {"errors"},
    "link": {"errors"},
    "moments": set(),
    "process": set(),
    "uids": set(),
    "dataset": {"errors", "uids"},
    "dicom": {"errors", "layout", "records", "uids", "dataset"},
    "dicom_json": VOCABULARY,
    "logs": {"config", "errors"},
    "node_file": {"config", "errors", "process"},
    "client": {"config", "errors", "node_file"},
    "synthetic": set(),
    "sender": {"client", "errors", "records", "dicom", "layout"},
    "storage": VOCABULARY,
    "codec": VOCABULARY,
    "policy": VOCABULARY,
    "index": VOCABULARY | {"policy"},
    "stats": VOCABULARY | {"storage"},
    "alarms": VOCABULARY,
    "upkeep": VOCABULARY | {"index", "policy", "storage"},
    "master": VOCABULARY | {"alarms", "index", "policy", "storage", "stats", "upkeep"},
    "maintenance": VOCABULARY | {"index", "policy", "storage", "upkeep", "node_file", "stats"},
    "simulating": VOCABULARY | {"policy", "stats", "storage"},
    "work": VOCABULARY | {"storage", "codec", "policy"},
    "dimse": VOCABULARY | {"storage"},
    "web": VOCABULARY | {"storage", "codec"},
    "edges": VOCABULARY | {"index", "policy", "dimse", "web", "storage", "logs"},
    "cluster": VOCABULARY
    | {"storage", "codec", "policy", "index", "stats", "master", "work", "dimse", "web", "edges"}
    | {"logs", "client", "node_file", "sender"},
    "cli": VOCABULARY
    | {"cluster", "client", "node_file", "logs", "sender", "synthetic"}
    | {"maintenance", "simulating"},
}

# Third-party package to the only rooms that know it.
ONLY_IN = {
    "ray": {"cluster"},
    "pynetdicom": {"dimse", "cli"},
    "fastapi": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "sqlalchemy": {"index"},
    "alembic": {"index"},
    "pyarrow": {"stats", "simulating"},
    "fsspec": {"storage"},
    "obstore": {"storage"},
    "botocore": {"storage"},
    "imagecodecs": {"codec", "web"},  # web: PNG and JPEG of rendered frames
    "gdcm": {"codec"},
    "rle": {"codec"},
    "pywt": {"codec"},
    "typer": {"cli"},
    "rich": {"cli"},
    "httpx": {"client", "sender", "cli"},
}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _modules() -> dict[str, Path]:
    """Return dotted name to file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that ``name`` imports, with the line."""
    modules = _modules()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in modules else base), node.lineno


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_room_is_in_the_table() -> None:
    rooms = {_room(name) for name in _modules()} - {""}
    assert rooms <= set(MAY_IMPORT), f"not in the table: {rooms - set(MAY_IMPORT)}"


def test_imports_point_one_way() -> None:
    wrong = []
    for name, path in _modules().items():
        room = _room(name)
        for target, line in _imports(name, path):
            if target.split(".")[0] != "raypacs" or target == "raypacs":
                continue
            if _room(target) not in MAY_IMPORT[room] | {room}:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {_room(target)}")
    assert not wrong, "\n".join(wrong)


def test_third_party_packages_enter_in_their_rooms_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {target}"
        for name, path in _modules().items()
        for target, line in _imports(name, path)
        if _room(name) not in ONLY_IN.get(target.split(".")[0], {_room(name)})
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    modules = _modules()
    edges = {
        name: {target for target, _ in _imports(name, path) if target in modules}
        for name, path in modules.items()
    }
    finished: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in finished:
            return
        for target in sorted(edges[name]):
            if target != name:
                visit(target, (*way, name))
        finished.add(name)

    for name in sorted(edges):
        visit(name, ())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.name))
def test_sizes_stay_readable(path: Path) -> None:
    assert path.name not in {"utils.py", "helpers.py", "common.py", "misc.py"}
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_MODULE, f"{lines} lines: more than one room"
    if "migrations" in path.parts:
        return
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = _length(node) - sum(map(_length, _nested(node)))
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _nested(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions defined directly in ``function``: they count for themselves."""
    return [
        node for node in function.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_nothing_is_imported_inside_a_function() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{inner.lineno}"
        for path in _modules().values()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert not wrong, "\n".join(wrong)


def test_broad_except_only_in_the_three_named_places() -> None:
    """The DIMSE handler, the Ray task wrapper, the command line."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for name, path in _modules().items()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
        and _room(name) not in {"dimse", "cluster", "cli"}
    ]
    assert not wrong, "\n".join(wrong)


def test_jobs_are_short_and_import_only_the_cluster() -> None:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        assert path.read_text(encoding="utf-8").count("\n") <= 60, path.name
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raypacs"):
                assert str(node.module).startswith("raypacs.cluster"), path.name
