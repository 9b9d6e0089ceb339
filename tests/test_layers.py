"""The house: which room may import which, no two files in a circle, and names that a reader of the field knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.commands import ROOT

# Floors from the bottom up. A room imports rooms on lower floors only; a room inside another may import that one.
FLOORS = [
    ["sdpo.errors"],
    ["sdpo.method", "sdpo.text", "sdpo.llm"],
    ["sdpo.settings", "sdpo.users"],
    ["sdpo.tiny", "sdpo.runtime", "sdpo.models"],
    ["sdpo.train", "sdpo.train.online", "sdpo.train.offline", "sdpo.data"],
    ["sdpo.study", "sdpo.evaluate"],
    ["sdpo.signal"],
    ["jobs"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS, start=1) for room in rooms}
# Rooms that must not know each other although a floor lies between them.
FORBIDDEN = {("sdpo.train", "sdpo.tiny"), ("sdpo.method", "sdpo.llm"), ("sdpo.evaluate", "sdpo.tiny.oracle")}
# Names that meant something only to those who had read the code.
RETIRED = [
    "Asking",
    "Patience",
    "away",
    "Spending",
    "Shelf",
    "Bench",
    "Contender",
    "ways",
    "Asked",
    "fitting",
    "prepass",
    "hearing",
    "lessons",
    "sides",
    "Said",
    "told",
    "look_back",
]


def modules() -> dict[str, Path]:
    """Return module name -> file of everything in sdpo and jobs."""
    files = [path for folder in ("sdpo", "jobs") for path in (ROOT / folder).rglob("*.py")]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


MODULES = modules()


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that a file names anywhere: lazily, for types, or as "module:function" of a job."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError("relative imports are not used here")
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in known)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name in known and "." in name:
                yield name


def room_of(module: str) -> str:
    """Return the room that a module is in."""
    rooms = [room for room in FLOOR_OF if module == room or module.startswith(f"{room}.")]
    assert rooms, f"{module} is in no room: only errors.py stays at the root of sdpo"
    return max(rooms, key=len)


IMPORTS = {
    name: {other for other in imported(ast.parse(path.read_text("utf-8")), MODULES) if other != name}
    for name, path in MODULES.items()
}


def test_the_rooms_are_those_of_the_plan():
    rooms = {room_of(name) for name in MODULES if name != "sdpo"}
    assert rooms == set(FLOOR_OF) and len(FLOORS) == 8
    assert sorted(path.name for path in (ROOT / "sdpo").glob("*.py")) == ["__init__.py", "errors.py"]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"sdpo"}))
def test_imports_go_down_only(module):
    room = room_of(module)
    for other in sorted(IMPORTS[module] - {"sdpo"}):
        target = room_of(other)
        inside = target == room or room.startswith(f"{target}.")
        assert inside or FLOOR_OF[target] < FLOOR_OF[room], f"{module} imports {other}, which is not below it"
        for first, second in FORBIDDEN:
            assert not (module.startswith(first) and other.startswith(second)), f"{module} must not know {other}"


def test_no_files_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(IMPORTS[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(MODULES):
        # A package's __init__ that gathers its files is no circle unless one of them imports the package itself.
        visit(name, ())


def test_what_the_import_test_reads():
    tree = ast.parse(
        "import sdpo.errors\nfrom sdpo import errors\ndef f():\n    from sdpo.text.chat import decode\n"
        "x = 'sdpo.data.logs:run'\ny = 'sdpo'\nimport torch"
    )
    known = dict.fromkeys(["sdpo", "sdpo.errors", "sdpo.text.chat", "sdpo.data.logs"], Path())
    assert sorted(imported(tree, known)) == ["sdpo.data.logs", "sdpo.errors", "sdpo.errors", "sdpo.text.chat"]


def test_the_method_needs_torch_alone(tmp_path):
    """The method is for other people's trainers: a path with torch and what torch needs has to be enough."""
    for name in requirements_of("torch"):
        for file in metadata.files(name) or ():
            top = file.parts[0]
            source, link = Path(str(metadata.distribution(name).locate_file(top))), tmp_path / top
            if top not in ("..", "__pycache__", "bin") and source.exists() and not link.exists():
                link.symlink_to(source)
    (tmp_path / "sdpo").mkdir()
    for part in ("__init__.py", "errors.py", "method"):
        (tmp_path / "sdpo" / part).symlink_to(ROOT / "sdpo" / part)
    rooms = [name for name in MODULES if name.startswith("sdpo.method")]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport {', '.join(rooms)}\n"
    code += "assert not {'transformers', 'trl', 'accelerate', 'peft', 'safetensors'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def requirements_of(name: str, found: set[str] | None = None) -> set[str]:
    """Return a distribution and all that it requires on this machine, by name."""
    found = set() if found is None else found
    if name in found:
        return found
    try:
        needs = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return found
    found.add(name)
    for need in needs:
        if "extra ==" not in need:
            requirements_of(re.match(r"[\w.-]+", need)[0], found)
    return found


def test_retired_names_are_gone():
    pattern = re.compile(rf"\b({'|'.join(RETIRED)})\b")
    files = [
        path for folder in ("sdpo", "jobs", "tests", "benchmarks", "docker") for path in (ROOT / folder).rglob("*")
    ]
    files = [path for path in files if path.suffix in (".py", ".sh", ".yaml") and path != Path(__file__)]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in [*files, ROOT / "README.md", ROOT / "compose.yaml", ROOT / ".env.example", ROOT / "Makefile"]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        for match in pattern.finditer(line)
    ]
    assert not found, "\n".join(found)
