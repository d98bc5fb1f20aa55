"""The shipped scenarios by name, and what a name on the command line may mean.

A scenario's name is its path under ``scenarios/`` without ``.toml``: ``R1/nbd-broken``. The name of a folder stands for
all in it, the broken arm before the fixed one before the cure. In a checkout the files lie at the top; in an installed
package they lie beside this module in ``files/``.

``netvm list`` has to answer at once, so this module reads files with the standard library and decodes only what it
shows: a catalogue entry is not yet known to be a valid scenario, loading says that.
"""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from netvm.errors import UsageError

__all__ = ["Entry", "Named", "entries", "find", "scenarios_root"]

_ARMS: Final = ("broken", "fixed", "cure")
"""The order in which the arms of an exhibit are told."""


class Entry(NamedTuple):
    """One line of ``netvm list``."""

    name: str
    exhibit: str
    """Code of the exhibit; empty for a scenario that is none."""
    arm: str
    kernel: str
    expect: tuple[str, ...]
    """Verdicts that are as expected, the usual one first."""
    title: str
    source: str


class Named(NamedTuple):
    """A scenario file and what to call it."""

    name: str
    path: Path


def scenarios_root() -> Path:
    """Return the folder of the shipped scenarios."""
    installed = Path(__file__).parent / "files"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "scenarios"


def entries(root: Path | None = None) -> list[Entry]:
    """Return the catalogue under ``root``, in the order in which it is to be read. Raises UsageError."""
    return [_entry(named) for named in _sorted(_files(root or scenarios_root()))]


def find(argument: str, root: Path | None = None) -> list[Named]:
    """Return what ``argument`` names: a shipped scenario, pair or folder of them, else a file or folder of the user's.

    Raises UsageError, with the nearest name there is.
    """
    shipped = _files(root or scenarios_root())
    name = argument.strip("/").removesuffix(".toml")
    chosen = [named for named in shipped if named.name == name or named.name.startswith(f"{name}/")]
    # a pair, unless a scenario has the name
    chosen = chosen or [named for named in shipped if named.name in {f"{name}-{arm}" for arm in _ARMS}]
    path = Path(argument)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
        there = path.exists() or path.is_symlink()
    except OSError as error:
        raise UsageError(f"{argument}: cannot be read: {error.strerror}") from error
    if name and chosen and not is_file:
        return _sorted(chosen)
    if argument and is_folder:
        return _folder(path)
    if argument and there:
        return [Named(name=argument, path=path)]
    named = argument or repr(argument)
    raise UsageError(f"{named}: no such file, and no scenario of this name; {_hint(name, shipped)}")


def _folder(path: Path) -> list[Named]:
    inside = [Named(name=str(path / named.path.relative_to(path)), path=named.path) for named in _files(path)]
    if not inside:
        raise UsageError(f"{path}: a directory without any .toml file; must be a scenario file or a folder of them")
    return _sorted(inside)


def _files(root: Path) -> list[Named]:
    """Return every scenario file under ``root``, named by its path."""
    return [
        Named(name=path.relative_to(root).with_suffix("").as_posix(), path=path)
        for path in sorted(root.rglob("*.toml"))
    ]


def _sorted(files: Sequence[Named]) -> list[Named]:
    """Sort by folder, then by pair (the name without its arm), then by arm."""

    def key(named: Named) -> tuple[str, str, int, str]:
        folder, _, last = named.name.removesuffix(".toml").rpartition("/")
        for rank, arm in enumerate(_ARMS):
            if last == arm or last.endswith(f"-{arm}"):
                return folder, last.removesuffix(arm).rstrip("-"), rank, last
        return folder, last, len(_ARMS), last

    return sorted(files, key=key)


def _hint(name: str, shipped: Sequence[Named]) -> str:
    if not shipped:
        return "the catalogue is empty"
    folders = {parent.as_posix() for named in shipped for parent in Path(named.name).parents} - {"."}
    known = {known.casefold(): known for known in [*sorted(folders), *(named.name for named in shipped)]}
    match = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.5)
    return f"did you mean {known[match[0]]}?" if match else "see `netvm list`"


def _entry(named: Named) -> Entry:
    data = _raw(named.path)
    exhibit = _table(data, "exhibit")
    expect = data.get("expect", ["COMPLETED"])
    return Entry(
        name=named.name,
        exhibit=str(exhibit.get("id", "")),
        arm=str(exhibit.get("arm", "")),
        kernel=str(_table(data, "kernel").get("preset", "6.1")),
        expect=tuple(str(verdict) for verdict in expect) if isinstance(expect, list) else (str(expect),),
        title=str(exhibit.get("title") or data.get("title", "")),
        source=" ".join(str(exhibit.get("source", "")).split()),
    )


def _raw(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error


def _table(data: dict[str, Any], key: str) -> dict[str, Any]:
    table = data.get(key, {})
    return table if isinstance(table, dict) else {}
