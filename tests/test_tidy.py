"""Style as a test: what a reader relies on in every file, counted rather than hoped for.

Each rule collects all its findings and fails once with the list. An exception is a line in a table here with its
reason, and it is exact: an exception that is no longer needed fails too, so the tables only shrink.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_CODE: Final = ("netvm", "storage_backends")
_FUNCTION_LINES_MAX: Final = 70
_MODULE_LINES_MAX: Final = 500

_LONG_FUNCTIONS: Final[dict[str, tuple[int, str]]] = {}
"""``path::function``: its lines, and why it may have more than 70."""

_LONG_MODULES: Final[dict[str, tuple[int, str]]] = {}
"""Path: its lines, and why it may have more than 500."""

_UNTESTED_MODULES: Final[dict[str, str]] = {
    "netvm/__main__.py": "run as a process of its own by tests/netvm/cli/test_app.py",
}
"""Path: where else the module is tested."""

_BANNED: Final = {
    r"(?<![\w&/])#\d+\b": "an issue number means nothing to a reader of the code",
    r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b": "an open end belongs into the tracker",
    r"(?<![\w./])/(work|root|home|Users)(?=/|\s|[\"'`]|$)": "a path of one machine",
}
"""Pattern: why it is banned from code, tests, documents and scenarios."""

_WRITTEN: Final = (".py", ".md", ".toml", ".yml", ".yaml", "")
"""Suffixes of what is written by hand."""


def _sources(*folders: str) -> Iterator[tuple[str, ast.Module, str]]:
    """Generate path, syntax tree and text of every Python file under ``folders``."""
    for folder in folders:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield path.relative_to(_ROOT).as_posix(), ast.parse(text), text


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Generate every function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        name = (
            f"{prefix}{node.name}"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else prefix
        )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, node
        yield from _functions(node, f"{name}." if named else prefix)


def _has_code(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body)


def _test_of(path: str) -> str:
    """Return where a module is tested; a package with code of its own is tested under its name, beside its folder."""
    folder, _, name = path.removesuffix("/__init__.py").removesuffix(".py").rpartition("/")
    return f"tests/{folder}/test_{name}.py"


def _report(findings: list[str]) -> str:
    return "\n".join(["", *findings])


def _ratchet(kind: str, limit: int, lines: dict[str, int], excused: dict[str, tuple[int, str]]) -> list[str]:
    """Return what is longer than ``limit`` without an excuse, and every excuse that is not exact."""
    findings = [
        f"{name}: {count} lines, {limit} at most a {kind}"
        for name, count in lines.items()
        if count > limit and name not in excused
    ]
    for name, (count, reason) in excused.items():
        found = lines.get(name, 0)
        if found != count or found <= limit or not reason:
            findings.append(f"{name}: excused for {count} lines, has {found}: correct or remove the excuse")
    return findings


def test_every_module_has_a_docstring() -> None:
    """The module docstring is the essay: a file without one has nothing to say for itself."""
    findings = [path for path, tree, _ in _sources(*_CODE, "tests", "benchmarks") if not ast.get_docstring(tree)]
    assert not findings, _report(findings)


def test_every_module_has_its_test() -> None:
    """``netvm/mm/buddy.py`` is tested in ``tests/netvm/mm/test_buddy.py``; a state machine may stand beside it."""
    findings, excused = [], set()
    for path, tree, _ in _sources(*_CODE):
        if not _has_code(tree):
            if path in _UNTESTED_MODULES:
                excused.add(path)
            continue
        test = _test_of(path)
        if path in _UNTESTED_MODULES:
            excused.add(path)
        elif not (_ROOT / test).is_file():
            findings.append(f"{path}: no {test}")
    findings += [f"{path}: excused, but not there" for path in _UNTESTED_MODULES if path not in excused]
    assert not findings, _report(findings)


def test_functions_are_short() -> None:
    """A function fits on a screen."""
    lines = {
        f"{path}::{name}": (function.end_lineno or 0) - function.lineno + 1
        for path, tree, _ in _sources(*_CODE)
        for name, function in _functions(tree)
    }
    findings = _ratchet("function", _FUNCTION_LINES_MAX, lines, _LONG_FUNCTIONS)
    assert not findings, _report(findings)


def test_modules_are_short() -> None:
    """A module is one noun: past 500 lines it is two."""
    lines = {path: len(text.splitlines()) for path, _, text in _sources(*_CODE)}
    findings = _ratchet("module", _MODULE_LINES_MAX, lines, _LONG_MODULES)
    assert not findings, _report(findings)


def test_every_test_says_what_holds() -> None:
    """The docstring of a test is the sentence that its failure contradicts."""
    findings = [
        f"{path}::{name}"
        for path, tree, _ in _sources("tests")
        for name, function in _functions(tree)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert not findings, _report(findings)


def test_all_is_sorted() -> None:
    """Every module with code names what it offers: constants, then classes, then functions, each in order."""

    def key(name: str) -> tuple[int, list[tuple[int, str]]]:
        parts = [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
        return (0 if name.isupper() else 1 if name[:1].isupper() else 2, parts)

    findings = []
    for path, tree, _ in _sources(*_CODE):
        offers = [_offered(node) for node in tree.body if _offered(node) is not None]
        names = offers[0] if offers else None
        if names is None:
            if _has_code(tree):
                findings.append(f"{path}: no __all__")
        elif names != sorted(names, key=key):
            findings.append(f"{path}: __all__ should be {sorted(names, key=key)}")
    assert not findings, _report(findings)


def _offered(node: ast.stmt) -> list[str] | None:
    """Return the names that a statement assigns to ``__all__``."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
        return None
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    assert isinstance(node.value, ast.List | ast.Tuple)
    return [item.value for item in node.value.elts if isinstance(item, ast.Constant)]


def test_no_banned_words() -> None:
    """Neither code nor documents point at a tracker's numbers, at open ends, or at one machine's paths."""
    findings = []
    for path in _documents():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for pattern, reason in _BANNED.items():
                word = re.search(pattern, line)
                if word:
                    findings.append(f"{path.relative_to(_ROOT)}:{number}: {word[0]!r}: {reason}")
    assert not findings, _report(findings)


def test_remarks_in_scenarios_fit_the_page() -> None:
    """A remark in a scenario file is as wide as a comment in the code, 120 characters at most."""
    findings = [
        f"{path.relative_to(_ROOT)}:{number}: {len(line)} characters"
        for path in sorted((_ROOT / "scenarios").rglob("*.toml"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.startswith("#") and len(line) > 120
    ]
    assert not findings, _report(findings)


def _documents() -> Iterator[Path]:
    """Generate every text that is written by hand; recordings under ``tests/data`` are not."""
    for folder in (*_CODE, "tests", "benchmarks", "docs", "scenarios", "changes", ".ci"):
        for path in sorted((_ROOT / folder).rglob("*")):
            recording = "data" in path.relative_to(_ROOT).parts and path.suffix != ".md"
            if path.is_file() and path.suffix in _WRITTEN and not recording:
                yield path
    yield from (path for path in (_ROOT / "README.md", _ROOT / "pyproject.toml") if path.is_file())


def test_the_readme_names_every_exhibit() -> None:
    """Each folder of exhibits has its line in the table of the museum."""
    rows = re.findall(r"^\| ([A-Z]\d+) \|", (_ROOT / "README.md").read_text(), flags=re.MULTILINE)
    halls = [path.name for path in (_ROOT / "scenarios").iterdir() if re.fullmatch(r"[A-Z]\d+", path.name)]
    assert sorted(rows) == sorted(halls)
