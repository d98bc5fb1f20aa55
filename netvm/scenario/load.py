"""From a TOML file to a :class:`~netvm.scenario.schema.Scenario`, and back to its resolved options.

Whatever is wrong with the user's input ends as one :class:`~netvm.errors.UsageError` of one line that names the file
(or the ``--set`` option), the key path, the value and what would be right. Three readers look in turn: the TOML parser
(line and column), the walk over the schema (:mod:`netvm.scenario.blame`), and the checks of one key against another
(:mod:`netvm.scenario.sanity`). Only the first mistake is told: the next ones are often its children.

An override ``a.b.c=value`` goes into the raw data before anything is checked, so it obeys the same rules as the file:
list entries are named by index (``workload.0.mib``), one index past the end adds an entry, the value is TOML, and what
is no TOML value is a plain string; so is a number where only a string will do (``kernel.preset=6.18``), since a shell
takes quotes away.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from netvm.errors import UsageError
from netvm.scenario.blame import Blame, blames, dotted, refuse, shown
from netvm.scenario.sanity import impossibilities
from netvm.scenario.schema import Scenario
from netvm.scenario.tomltext import toml_text

__all__ = ["load_scenario", "options_of", "read_text", "read_toml", "scenario_from", "scenario_toml"]

_FILE_BYTES_MAX: Final = 1 << 22
"""No scenario is near this; a device file or a core dump is beyond it."""

_DEPTH_MAX: Final = 32
_INDEX_DIGITS_MAX: Final = 9

_HOSTLESS: Final[dict[str, object]] = {
    "storage": {"kind": "disk"},
    "workload": [{"kind": "anon-hog", "mib": 1}],
}
"""What a scenario without a host need not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Override:
    """One ``--set`` option."""

    path: tuple[str | int, ...]
    text: str

    @property
    def origin(self) -> str:
        return f"--set {self.text}"


def load_scenario(path: Path, *, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario of a TOML file with ``overrides`` (each ``KEY=VALUE``) applied. Raises UsageError."""
    data = read_toml(path)
    if "reproducer" in data:
        raise UsageError(f"{path}: a reproducer of `netvm check`, not a scenario; run `netvm replay {path}`")
    return scenario_from(data, origin=str(path), overrides=overrides)


def scenario_from(data: Mapping[str, object], *, origin: str, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario that raw ``data`` from ``origin`` describes. Raises UsageError."""
    merged = deepcopy(dict(data))
    applied = [_apply(merged, text) for text in overrides]
    for override in applied:
        _respell(merged, override)
    if "abstract" in merged:
        merged = _HOSTLESS | merged
    for blame in blames(merged, Scenario):
        raise _blamed(blame, origin, applied)
    try:
        scenario = msgspec.convert(merged, Scenario)
    except msgspec.ValidationError as error:  # stricter than the walk above in something it does not know
        raise UsageError(f"{origin}: {error}") from error
    for blame in impossibilities(scenario):
        raise _blamed(blame, origin, applied)
    return scenario


def options_of(scenario: Scenario) -> dict[str, Any]:
    """Return every option of ``scenario``, defaults filled in, as plain data; :func:`scenario_from` reads it back."""
    options = msgspec.to_builtins(scenario)
    assert isinstance(options, dict)
    return options


def scenario_toml(scenario: Scenario) -> str:
    """Return every option of ``scenario`` as TOML; keys without a value are left out."""
    return toml_text(options_of(scenario))


def read_toml(path: Path) -> dict[str, Any]:
    """Return the raw data of a TOML file. Raises UsageError."""
    text = read_text(path)
    if not text.strip():
        raise UsageError(f"{path}: empty; a scenario has [storage] and [[workload]] at least")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_syntax(path, text, str(error))) from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deep to be a scenario") from error
    except ValueError as error:  # a number of thousands of digits
        raise UsageError(f"{path}: not TOML: {error}") from error
    # a dotted key nests without the reader's recursion
    if _is_deeper(data, _DEPTH_MAX):
        raise UsageError(f"{path}: nested too deep to be a scenario")
    return data


def _is_deeper(value: object, depth: int) -> bool:
    """Say whether tables and lists are nested more than so deep."""
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return not depth or any(_is_deeper(item, depth - 1) for item in inside)


def read_text(path: Path) -> str:
    """Return the text of a user's file. Raises UsageError if it cannot be read or is no text."""
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a directory, not a file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise UsageError(f"{path}: no file name: {error}") from error
    if len(raw) > _FILE_BYTES_MAX:
        raise UsageError(f"{path}: larger than {_FILE_BYTES_MAX >> 20} MiB; no such file of netvm is")
    if b"\0" in raw:
        raise UsageError(f"{path}: binary (a NUL byte at offset {raw.index(0)}), not a text")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte 0x{raw[error.start]:02x} at offset {error.start})") from error


def _syntax(path: Path, text: str, message: str) -> str:
    """Return the parser's complaint in the form of a compiler's: file, line, column."""
    place = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if place is None:
        what = message.removesuffix(" (at end of document)")
        return f"{path}:{len(text.splitlines())}: not TOML: the file ends too early: {_lowered(what)}"
    what, line, column = place.groups()
    hint = "; a result of `netvm run --json`? see `netvm replay`" if text.lstrip().startswith("{") else ""
    return f"{path}:{line}:{column}: not TOML: {_lowered(what)}{hint}"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _blamed(blame: Blame, origin: str, applied: Sequence[_Override]) -> UsageError:
    """Return the error on the option that wrote the blamed key; else on the file, naming the options beside it."""
    for override in reversed(applied):
        if override.path == blame.path:
            return UsageError(f"{override.origin}: {blame.problem}")
        shorter = min(len(override.path), len(blame.path))
        if override.path[:shorter] == blame.path[:shorter]:
            return refuse(override.origin, blame)
    return refuse(" ".join([origin, *(override.origin for override in applied)]), blame)


def _apply(data: dict[str, Any], text: str) -> _Override:
    """Write one ``KEY=VALUE`` into the raw data, making tables and list entries on the way."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UsageError(f"--set {text}: must be KEY=VALUE, the key a dotted path such as vm.min_free_kbytes")
    path: list[str | int] = []
    here: Any = data
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        step = _step(here, part, path, text)
        path.append(step)
        if following is None:
            _put(here, step, _toml_value(value.strip()))
            break
        if isinstance(here, list) and step == len(here):
            here.append({})
        elif isinstance(here, dict) and step not in here:
            here[step] = [] if following.isdecimal() else {}
        here = here[step]
    return _Override(path=tuple(path), text=text)


def _respell(data: dict[str, Any], override: _Override) -> None:
    """Take the value of an option as it was typed if its key wants that, and not the number that it spells."""
    here: Any = data
    *parents, last = override.path
    for part in parents:
        here = here[part]
    value = here[last]
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if any(blame.path == override.path for blame in blames(data, Scenario)):
        here[last] = override.text.partition("=")[2].strip()
        if any(blame.path == override.path for blame in blames(data, Scenario)):
            here[last] = value


def _step(here: object, part: str, path: Sequence[str | int], text: str) -> str | int:
    """Return ``part`` as a key of the table, or an index of the list, that has been reached."""
    place = dotted(tuple(path))
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise UsageError(f"--set {text}: {place} = {shown(here)} is no table; nothing can be set under it")
    if part[:1].isalpha():
        raise UsageError(f"--set {text}: {place} is a list; write an index, as in {place}.0.{part}")
    if not (part.isascii() and part.isdecimal()):
        raise UsageError(f"--set {text}: {place} is a list; index must be from 0 to {len(here)}")
    if len(part) > _INDEX_DIGITS_MAX or int(part) > len(here):
        raise UsageError(f"--set {text}: {place} ends before this; index must be from 0 to {len(here)}")
    return int(part)


def _put(here: Any, step: str | int, value: object) -> None:
    if isinstance(here, list) and step == len(here):
        here.append(value)
    else:
        here[step] = value


def _toml_value(text: str) -> object:
    """Return the TOML value that ``text`` spells, or ``text`` itself."""
    try:
        data = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return data["value"] if set(data) == {"value"} else text
