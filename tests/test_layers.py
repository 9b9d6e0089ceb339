"""The layering: which package may import which, no import cycles, and retired names."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.commands import ROOT

# From the bottom up. A package imports packages of lower layers only; a subpackage may also import its parent.
LAYERS = [
    ["sdpo.errors", "sdpo.progress"],
    ["sdpo.method", "sdpo.text", "sdpo.llm"],
    ["sdpo.settings", "sdpo.users"],
    ["sdpo.tiny", "sdpo.english", "sdpo.runtime", "sdpo.models"],
    ["sdpo.train", "sdpo.train.online", "sdpo.train.offline", "sdpo.data", "sdpo.plan"],
    ["sdpo.study", "sdpo.evaluate", "sdpo.gpu_checks"],
    ["sdpo.signal", "sdpo.registry"],
    ["sdpo.gateway", "sdpo.report"],
    ["sdpo.learn", "sdpo.chat"],
    ["jobs"],
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS, start=1) for package in packages}
# Imports that are forbidden although they go to a lower layer.
FORBIDDEN = {("sdpo.train", "sdpo.tiny"), ("sdpo.method", "sdpo.llm"), ("sdpo.evaluate", "sdpo.tiny.oracle")}
# Retired names and words that only readers of the code understood.
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
    """Yield the known modules that a file imports, also lazily or for types, or names as "module:function"."""
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


def package_of(module: str) -> str:
    """Return the package that contains the module."""
    packages = [package for package in LAYER_OF if module == package or module.startswith(f"{package}.")]
    assert packages, f"{module} is in no package: only errors.py may be at the root of sdpo"
    return max(packages, key=len)


IMPORTS = {
    name: {other for other in imported(ast.parse(path.read_text("utf-8")), MODULES) if other != name}
    for name, path in MODULES.items()
}


def test_the_packages_are_those_of_the_layers():
    packages = {package_of(name) for name in MODULES if name != "sdpo"}
    assert packages == set(LAYER_OF) and len(LAYERS) == 10
    assert sorted(path.name for path in (ROOT / "sdpo").glob("*.py")) == ["__init__.py", "errors.py"]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"sdpo"}))
def test_imports_go_to_lower_layers_only(module):
    package = package_of(module)
    for other in sorted(IMPORTS[module] - {"sdpo"}):
        target = package_of(other)
        inside = target == package or package.startswith(f"{target}.")
        assert inside or LAYER_OF[target] < LAYER_OF[package], (
            f"{module} imports {other}, which is not in a lower layer"
        )
        for first, second in FORBIDDEN:
            assert not (module.startswith(first) and other.startswith(second)), f"{module} must not import {other}"


def test_there_are_no_import_cycles():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"an import cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(IMPORTS[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(MODULES):
        # A package's __init__ that imports its modules is no cycle unless one of them imports the package itself.
        visit(name, ())


def test_imported_finds_all_kinds_of_imports():
    tree = ast.parse(
        "import sdpo.errors\nfrom sdpo import errors\ndef f():\n    from sdpo.text.chat import decode\n"
        "x = 'sdpo.data.logs:run'\ny = 'sdpo'\nimport torch"
    )
    known = dict.fromkeys(["sdpo", "sdpo.errors", "sdpo.text.chat", "sdpo.data.logs"], Path())
    assert sorted(imported(tree, known)) == ["sdpo.data.logs", "sdpo.errors", "sdpo.errors", "sdpo.text.chat"]


def test_the_method_needs_only_torch(tmp_path):
    """The method can be used in other trainers: torch and its requirements are enough to import it."""
    for name in requirements_of("torch"):
        for file in metadata.files(name) or ():
            top = file.parts[0]
            source, link = Path(str(metadata.distribution(name).locate_file(top))), tmp_path / top
            if top not in ("..", "__pycache__", "bin") and source.exists() and not link.exists():
                link.symlink_to(source)
    (tmp_path / "sdpo").mkdir()
    for part in ("__init__.py", "errors.py", "method"):
        (tmp_path / "sdpo" / part).symlink_to(ROOT / "sdpo" / part)
    packages = [name for name in MODULES if name.startswith("sdpo.method")]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport {', '.join(packages)}\n"
    code += "assert not {'transformers', 'trl', 'accelerate', 'peft', 'safetensors'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def requirements_of(name: str, seen: set[str] | None = None) -> set[str]:
    """Return the names of a distribution and of all its installed requirements."""
    seen = set() if seen is None else seen
    if name in seen:
        return seen
    try:
        needs = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return seen
    seen.add(name)
    for need in needs:
        if "extra ==" not in need:
            requirements_of(re.match(r"[\w.-]+", need)[0], seen)
    return seen


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
