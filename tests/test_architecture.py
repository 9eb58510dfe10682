"""The house rules that a machine can see: imports, the public surface, packages, sizes."""

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import turnlog

ROOT = Path(__file__).resolve().parents[1]
ENGINE, ADAPTERS = ROOT / "engine", ROOT / "adapters"

pytestmark = pytest.mark.skipif(bool(os.environ.get("TURNLOG_WHEEL")), reason="the sources are not beside the wheel")


def sources() -> Iterator[Path]:
    for folder in (ENGINE, ADAPTERS, ROOT / "tests", ROOT / "benchmarks"):
        yield from (path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    yield ROOT / "turnlog" / "__init__.py"


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """Return the modules that a file imports, absolute, and whether only for types."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = ["turnlog", *parts[:-1]] if parts[0] in ("engine", "adapters") else list(parts[:-1])
    tree = ast.parse(path.read_text())
    typing = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if node.module is None:
                yield from ((f"{module}.{alias.name}", id(node) in typing) for alias in node.names)
            else:
                yield module, id(node) in typing


def engine_imports(path: Path) -> set[str]:
    prefix = "turnlog.engine."
    return {name.removeprefix(prefix) for name, typing in imports(path) if name.startswith(prefix) and not typing}


# Each module may import from the layers below its own. What is not listed is an error, so that new modules get a place.
LAYERS = (
    ("errors", "shield", "logs", "threads"),
    ("checks", "common", "ids", "canonical", "pages", "families", "fields", "media", "schemas"),
    ("items", "manifest", "extras", "signatures"),
    ("events", "forms"),
    ("codec", "prices", "answers", "notices"),
    ("log", "blobs", "kept", "groups"),
    ("stores.batching", "stores.statements", "history", "compaction"),
    ("stores.sqlite_errors",),
    ("stores.memory", "stores.sqlite_connection", "stores.sqlite_facets", "window.excerpts", "window.kinds"),
    ("stores.sqlite_reading", "stores.sqlite_rows", "stores.sqlite_schema", "stores.sqlite_sweeping"),
    ("stores.sqlite_writing", "stores.sqlite_copying"),
    ("stores.sqlite_erasing",),
    ("stores.sqlite", "stores.postgres_rows", "stores.postgres_errors"),
    ("stores.postgres_link", "stores.postgres_schema"),
    ("stores.postgres_reading", "stores.postgres_writing", "stores.postgres_news"),
    ("stores.postgres_erasing",),
    ("stores.postgres",),
    ("tokens", "paths", "summaries"),
    ("turns.places", "branching", "passages", "damage"),
    ("turns.listed",),
    ("window.budget", "window.units", "window.render", "window.extracts", "vocabulary"),
    ("window.cutting", "window.ledger", "window.invariants", "window.remote", "messages"),
    ("window.parts", "window.invariants.identity", "window.invariants.pairing"),
    (
        "window.policies",
        "window.invariants.programs",
        "window.invariants.uniqueness",
        "window.account",
        "window.window",
        "window.coverage",
        "intake",
    ),
    ("window.choose",),
    ("loading", "model", "portable", "tools", "derived"),
    ("reader", "turns.outcome", "turns.recorder"),
    ("writer", "turns.plan", "replay.differing", "replay.encoders", "turns.streams", "erasing"),
    ("replay.rebuilding",),
    ("replay.running", "replay.comparing", "replay.legible", "replay.scenarios"),
    ("replay.verifying",),
    ("replay.sent",),
    ("replay.rechoosing", "replay.tape", "totals", "redacting", "transcribing"),
    ("replay.recorded",),
    ("replay",),
    ("turns.sealing", "turns.requests", "turns.material"),
    ("turns.call", "turns.keys", "turns.counting", "listing", "turns.crew", "turns.jobs", "answering"),
    ("turns.asking", "turns.resuming", "turns.side"),
    ("turns.aside", "turns.errands"),
    ("turns.compacting",),
    ("turns.shortening",),
    ("turns.turn",),
    ("conversation", "followers", "replay.stepping", "replay.whatif"),
    ("remotes",),
    ("engine",),
    ("opening",),
    ("testing",),
)
PURE = (
    "items",
    "answers",
    "events",
    "groups",
    "history",
    "compaction",
    "families",
    "media",
    "schemas",
    "summaries",
    "notices",
    "passages",
    "kept",
    "tokens",
    "messages",
    "manifest",
    "extras",
    "common",
    "forms",
    "turns.recorder",
    "window",
)


def layer(module: str) -> int:
    for index, names in enumerate(LAYERS):
        if module in names or (module.startswith("testing") and "testing" in names):
            return index
    if module.startswith("window.invariants"):
        return layer("window.invariants")
    raise AssertionError(f"{module} has no place in LAYERS")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ENGINE).with_suffix("").parts).removesuffix(".__init__")


def engine_modules() -> list[Path]:
    return sorted(
        path for path in ENGINE.rglob("*.py") if module_of(path) not in ("__init__", "stores", "turns", "window")
    )


@pytest.mark.parametrize("path", engine_modules(), ids=module_of)
def test_engine_imports_go_one_way(path):
    module = module_of(path)
    if module.startswith("testing"):
        return
    for name in engine_imports(path):
        if name.startswith("window.invariants.") and module == "window.invariants":
            continue
        assert layer(name) < layer(module) or name == module, f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("path", engine_modules(), ids=module_of)
def test_engine_knows_no_adapter_and_no_vendor(path):
    for name, _ in imports(path):
        assert not name.startswith(("turnlog.adapters", "adapters")), f"{path.name} imports {name}"
        if not module_of(path).startswith("testing"):
            assert name.split(".")[0] not in ("openai", "httpx", "httpx2"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", engine_modules(), ids=module_of)
def test_pure_modules_do_no_io(path):
    module = module_of(path)
    if module not in PURE and module.split(".")[0] not in PURE:
        return
    for name, typing in imports(path):
        if typing:
            continue
        assert name.split(".")[0] not in ("anyio", "asyncio", "sqlite3", "aiosqlite", "os", "socket"), (
            f"{module}: {name}"
        )
        assert not name.startswith(("turnlog.engine.log", "turnlog.engine.stores")), f"{module} imports {name}"


def test_stores_do_not_import_each_other():
    names = {path.stem for path in (ENGINE / "stores").glob("*.py")} - {"__init__", "batching", "statements"}
    for name in names:
        for other in names:
            if other.split("_")[0] != name.split("_")[0]:  # sqlite_reading is a part of sqlite
                assert f"stores.{other}" not in engine_imports(ENGINE / "stores" / f"{name}.py")


def test_adapters_do_not_import_one_another():
    names = {path.stem for path in ADAPTERS.glob("*.py")} - {"__init__", "wire", "chat_traits", "chat_answers"}
    for name in names:
        for module, _ in imports(ADAPTERS / f"{name}.py"):
            assert module.removeprefix("turnlog.adapters.") not in names - {name}, f"{name} imports {module}"


def test_nothing_imports_the_bare_folders():
    for path in sources():
        for name, _ in imports(path):
            assert name.split(".")[0] not in ("engine", "adapters"), f"{path}: import turnlog.{name}"


def test_packages_are_the_folders():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"turnlog"}
    for folder in (ENGINE, ADAPTERS):
        for init in folder.rglob("__init__.py"):
            found.add(".".join(["turnlog", *init.parent.relative_to(ROOT).parts]))
    assert listed == found


def test_the_links_for_static_tools_are_links():
    for name in ("engine", "adapters"):
        link = ROOT / "turnlog" / name
        assert link.is_symlink() or link.is_file(), f"{link} is a copy"
        if link.is_symlink():
            assert str(link.readlink()) == f"../{name}"


SURFACE = {
    "open_engine", "Engine", "Conversation", "Budget", "Window", "Result", "StreamEvent", "tool", "Tool", "ToolContext",
    "ANY", "NO_STREAM", "TurnlogError", "Invalid", "BudgetExceeded", "NotFound", "Conflict", "ConversationBusy",
    "ResponseFailed", "StoreError",
}  # fmt: skip


def test_the_public_surface_is_a_list():
    assert set(turnlog.__all__) == SURFACE
    for name in SURFACE:
        assert getattr(turnlog, name) is not None


@pytest.mark.parametrize("path", engine_modules(), ids=module_of)
def test_every_module_lists_what_it_offers(path):
    tree = ast.parse(path.read_text())
    listed = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name) and target.id == "__all__"
        ),
        None,
    )
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    if defined:
        assert listed is not None, f"{path.name} has no __all__"
        assert len(listed) == len(set(listed))


BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.comprehension,
    ast.match_case,
    ast.Assert,
)


def complexity(node: ast.AST) -> int:
    return 1 + sum(
        isinstance(part, BRANCHES) + (len(part.values) - 1 if isinstance(part, ast.BoolOp) else 0)
        for part in ast.walk(node)
    )


def test_the_map_names_every_room():
    map_ = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = re.findall(r"`(?:engine/)?([a-z_/]+)`", map_.partition("## Rooms")[2].partition("## Rules")[0])
    parts = {part for room in rooms for part in room.split("/")}
    modules = [module_of(path) for path in engine_modules()]
    # What a store is made of is named after it.
    inner = ("testing.", "window.invariants.", "stores.sqlite_", "stores.postgres_")
    known = {module for module in modules if not module.startswith(inner)}
    assert {module for module in known if module.rpartition(".")[2] not in parts} == set()


def test_files_and_functions_are_small():
    lengths = []
    for path in sources():
        text = path.read_text()
        assert len(text.splitlines()) <= 700, f"{path} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                lengths.append(lines)
                assert lines <= 100, f"{path}: {node.name} has {lines} lines"
                assert complexity(node) <= 15, f"{path}: {node.name} has complexity {complexity(node)}"
    lengths.sort()
    assert lengths[len(lengths) * 19 // 20] <= 45


SDKS = ("openai", "tiktoken", "pydantic", "structlog", "aiosqlite")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("turnlog", (*SDKS, "importlib.resources", "importlib.metadata")),
        ("turnlog.adapters.responses", SDKS),
        ("turnlog.adapters.chat_completions", SDKS),
        ("turnlog.adapters.cli.app", ("openai", "tiktoken", "pydantic", "psycopg")),
    ],
)
def test_importing_it_imports_no_sdk(module, heavy):
    import subprocess
    import sys

    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
