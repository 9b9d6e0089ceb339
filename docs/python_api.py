"""Writes the Python reference from signatures and docstrings, read from the source: nothing is imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What other programs may import, by package: all modules of it, or those that are named.
MODULES = (
    "sdpo/method/*.py",
    "sdpo/text/hindsight.py",
    "sdpo/text/chat.py",
    "sdpo/text/records.py",
    "sdpo/users/oracle.py",
    "sdpo/users/judge.py",
    "sdpo/report/__init__.py",
    "sdpo/runtime/launch.py",
    "sdpo/errors.py",
)

_INTRODUCTION = """\
# Python reference

What you may import. `sdpo.method` needs torch alone. Tensors with more than one axis carry their shape in the name:
`logps_BT` is (batch, tokens), `hidden_NH` (positions, hidden size).
"""


def write(path: Path) -> None:
    """Write the page, unless it is there with this text: the site is then not built anew."""
    text = page()
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def page() -> str:
    """Return the page: for each module its docstring, and its public functions and classes with theirs."""
    parts = [_INTRODUCTION]
    for pattern in MODULES:
        for path in sorted(ROOT.glob(pattern)):
            tree = ast.parse(path.read_text("utf-8"))
            entries = list(_entries(tree))
            if entries:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                parts += [f"## {name}\n", _text(tree), *entries]
    return "\n".join(parts)


def _entries(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f"### `{node.name}`\n\n{_signature(node)}\n{_text(node)}"
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield f"### `{node.name}`\n\n{_class_signature(node)}\n{_text(node)}"
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and ast.get_docstring(item):
                    yield f"#### `{node.name}.{item.name}`\n\n{_signature(item)}\n{_text(item)}"


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return _code(f"{node.name}({ast.unparse(node.args)}){returns}")


def _class_signature(node: ast.ClassDef) -> str:
    """Return the signature of the constructor: of `__init__`, or the fields of a dataclass."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            item.args.args = item.args.args[1:]
            return _code(f"{node.name}({ast.unparse(item.args)})")
    if any("dataclass" in ast.unparse(item) for item in node.decorator_list):
        fields = [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]
        return _code(f"{node.name}({', '.join(fields)})")
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return _code(f"class {node.name}({bases})" if bases else f"class {node.name}")


def _code(line: str) -> str:
    if len(line) > 100:
        head, _, rest = line.partition("(")
        depth, parts, part = 0, [], ""
        for char in rest:
            depth += (char in "([{") - (char in ")]}")
            part += char
            if char == "," and depth == 0:
                parts.append(part.strip())
                part = ""
        line = "\n    ".join([f"{head}(", *parts, part.strip()])
    return f"```python\n{line}\n```\n"


def _text(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """Return a docstring as Markdown: indented lines stay as they are, and elsewhere no character is markup."""
    lines = []
    for line in (ast.get_docstring(node) or "").splitlines():
        if not line.startswith("    "):
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [re.sub(r"([*_<\[\]{}$])", r"\\\1", part) for part in parts[::2]]
            # A field with its meaning, "name: text", is an item of a list.
            line = re.sub(r"^([a-z][\w\\]*(?:, [a-z][\w\\]*)*): ", r"- \1: ", "".join(parts))
        lines.append(line)
    return "\n".join(lines) + "\n"
