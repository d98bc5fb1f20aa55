"""TOML as netvm writes it: an imported run, or the resolved options of a scenario.

The standard library reads TOML and does not write it. What is written here is the part of TOML 1.0 that scenarios use:
bare and quoted keys, basic strings, numbers, truth values, one-line arrays, tables and arrays of tables. A comment can
stand before any key or table; reading the text back gives the data that was written (``None`` is left out: TOML has no
null, and a key left out has its default).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

__all__ = ["toml_text"]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(data: Mapping[str, object], *, comments: Mapping[str, str] | None = None) -> str:
    """Return ``data`` as a TOML document; ``comments`` are put before the dotted paths they are filed under.

    The comment under the empty path opens the document.
    """
    notes = comments or {}
    lines = [*_comment(notes.get("")), *([""] if "" in notes else []), *_table(data, (), notes)]
    return "\n".join(lines).strip("\n") + "\n"


def _table(table: Mapping[str, object], path: tuple[str, ...], notes: Mapping[str, str]) -> Iterator[str]:
    """Generate the lines of one table: its plain keys, then its tables, each under a header of its own."""
    nested: list[tuple[tuple[str, ...], object]] = []
    for key, value in table.items():
        place = (*path, key)
        if isinstance(value, Mapping) or _is_array_of_tables(value):
            nested.append((place, value))
        elif value is not None:
            yield from _comment(notes.get(".".join(place)))
            yield f"{_key(key)} = {_value(value)}"
    for place, value in nested:
        header = ".".join(_key(part) for part in place)
        if isinstance(value, Mapping):
            yield from ("", *_comment(notes.get(".".join(place))), f"[{header}]")
            yield from _table(value, place, notes)
            continue
        assert isinstance(value, Sequence)
        for index, item in enumerate(value):
            note = notes.get(".".join(place)) if index == 0 else None
            yield from ("", *_comment(note), f"[[{header}]]")
            yield from _table(item, place, notes)


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _comment(text: str | None) -> Iterator[str]:
    for line in (text or "").splitlines():
        yield f"# {line}".rstrip()


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    assert isinstance(value, int), f"no TOML for {value!r}"
    return str(value)


def _float(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return str(value)
    text = repr(value)
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def _string(text: str) -> str:
    # JSON's escapes are TOML's; only DEL, which JSON leaves alone, may not stand raw in TOML.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
