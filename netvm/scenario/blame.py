"""Which key of a user's data is wrong, and what would be right: one :class:`Blame` for each mistake.

msgspec decodes and refuses; its message names a path inside a JSON document and neither the value nor the remedy. So
the data is first held against the same types here, by walking ``msgspec.inspect``'s description of them, and every
mistake is told the way a colleague would tell it: the key as it is typed in ``--set``, the value found, what is
expected, and the nearest word that exists. A key that stands in the wrong table is told its right one.

The walk knows no scenario: any frozen struct will do (a recorded run's ``config.json`` is checked by it too). Two
things are stricter here than in msgspec: integers stay within 64 bits, and a number is never ``nan`` or infinite.
"""

import difflib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec.inspect as shape

from netvm.errors import UsageError
from netvm.scenario.synonyms import WAYS, meant_keys

__all__ = ["ABSENT", "Blame", "blames", "dotted", "nearest", "refuse", "shown"]

Path = tuple[str | int, ...]

_INT64_MAX: Final = 2**63 - 1
_SHOWN_CHARS_MAX: Final = 60
_ALIKE_FAR: Final = 0.85


class _Absent:
    """The value of a key that is not there."""


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """One mistake in the data."""

    path: Path
    """Keys and list indexes from the top."""
    value: object
    """What stands there; :data:`ABSENT` if nothing does."""
    problem: str
    """What is wrong with it and what would be right."""

    def __str__(self) -> str:
        place = dotted(self.path) or "the whole"
        if isinstance(self.value, _Absent | dict | list):
            return f"{place}: {self.problem}"
        return f"{place} = {shown(self.value)}: {self.problem}"


def refuse(origin: str, blame: Blame) -> UsageError:
    """Return the error that puts ``blame`` on ``origin`` (a file, or an option of the command line)."""
    return UsageError(f"{origin}: {blame}")


def dotted(path: Path) -> str:
    """Return ``path`` as ``--set`` takes it: ``workload.0.mib``."""
    return ".".join(str(part) for part in path)


def shown(value: object) -> str:
    """Return ``value`` on one short line, strings quoted, as TOML would have it."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "{...}"
    elif isinstance(value, list):
        text = f"[{', '.join(shown(item) for item in value)}]"
    elif isinstance(value, int) and abs(value) > 10**_SHOWN_CHARS_MAX:
        text = f"(an integer of {value.bit_length()} bits)"
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 3] + "..."


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the word of ``known`` that ``word`` was probably meant to be."""
    folded = {name.casefold().replace("_", "-"): name for name in known}
    match = difflib.get_close_matches(word.casefold().replace("_", "-"), folded, n=1, cutoff=0.6)
    return folded[match[0]] if match else None


def blames(data: object, kind: type) -> Iterator[Blame]:
    """Generate the mistakes of ``data`` as a ``kind``, in the order of the file; unknown keys come first."""
    top = shape.type_info(kind)
    assert isinstance(top, shape.StructType)
    yield from _walk(data, top, (), top)


def _walk(value: object, kind: shape.Type, path: Path, top: shape.StructType) -> Iterator[Blame]:
    """Generate the mistakes of one value and all below it."""
    if isinstance(kind, shape.UnionType):
        yield from _walk_union(value, kind, path, top)
    elif isinstance(kind, shape.StructType):
        yield from _walk_struct(value, kind, path, top)
    elif isinstance(kind, shape.ListType):
        yield from _walk_list(value, kind, path, top)
    elif isinstance(kind, shape.DictType):
        if not isinstance(value, dict):
            yield _mismatch(value, kind, path)
            return
        for key, item in value.items():
            yield from _walk(item, kind.value_type, (*path, key), top)
    elif not _fits(value, kind):
        yield _mismatch(value, kind, path)


def _walk_union(value: object, union: shape.UnionType, path: Path, top: shape.StructType) -> Iterator[Blame]:
    """Choose the member of a union that the data means: by its tag among structs, else the one that is not null."""
    if value is None and any(isinstance(member, shape.NoneType) for member in union.types):
        return
    members = [member for member in union.types if not isinstance(member, shape.NoneType)]
    structs = [member for member in members if isinstance(member, shape.StructType) and member.tag_field]
    if not structs or not isinstance(value, dict):
        yield from _walk(value, members[0], path, top)
        return
    tag_field = structs[0].tag_field
    assert tag_field is not None
    by_tag = {str(struct.tag): struct for struct in structs}
    tag = value.get(tag_field, ABSENT)
    if isinstance(tag, str) and tag in by_tag:
        yield from _walk_struct(value, by_tag[tag], path, top)
    else:
        yield _mismatch(tag, shape.LiteralType(tuple(sorted(by_tag))), (*path, tag_field))


def _walk_struct(value: object, struct: shape.StructType, path: Path, top: shape.StructType) -> Iterator[Blame]:
    if not isinstance(value, dict):
        yield _mismatch(value, struct, path)
        return
    fields = {field.encode_name: field for field in struct.fields}
    known = [*fields, *([struct.tag_field] if struct.tag_field else [])]
    inner = [
        f"{name}.{below.encode_name}"
        for name, field in fields.items()
        if isinstance(field.type, shape.StructType)
        for below in field.type.fields
    ]
    if struct.forbid_unknown_fields:
        for key, item in value.items():
            if key not in known:
                yield Blame(
                    path=(*path, key), value=item, problem=_unknown_key(key, known, inner if path else [], path, top)
                )
    for key, item in value.items():
        if key in fields:
            yield from _walk(item, fields[key].type, (*path, key), top)
    for name, field in fields.items():
        if field.required and name not in value:
            yield _mismatch(ABSENT, field.type, (*path, name))


def _walk_list(value: object, kind: shape.ListType, path: Path, top: shape.StructType) -> Iterator[Blame]:
    if not isinstance(value, list):
        yield _mismatch(value, kind, path)
        return
    if kind.min_length is not None and len(value) < kind.min_length:
        yield Blame(path=path, value=value, problem=f"must have {kind.min_length} or more entries")
    if kind.max_length is not None and len(value) > kind.max_length:
        yield Blame(path=path, value=value, problem=f"must have at most {kind.max_length} entries, not {len(value)}")
    for index, item in enumerate(value):
        yield from _walk(item, kind.item_type, (*path, index), top)


def _fits(value: object, kind: shape.Type) -> bool:
    """Say whether a leaf value has the type and keeps the bounds of its key."""
    if isinstance(kind, shape.LiteralType):
        return any(value == right and type(value) is type(right) for right in kind.values)
    if isinstance(kind, shape.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, shape.StrType):
        return isinstance(value, str) and len(value) >= (kind.min_length or 0)
    if isinstance(kind, shape.NoneType):
        return value is None
    if isinstance(kind, shape.IntType):
        return _is_integer(value) and _within(value, kind)
    if isinstance(kind, shape.FloatType):
        return (_is_integer(value) or isinstance(value, float)) and _within(value, kind)
    return True


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _within(value: object, kind: shape.IntType | shape.FloatType) -> bool:
    assert isinstance(value, int | float)
    if not math.isfinite(value) if isinstance(value, float) else abs(value) > _INT64_MAX:
        return False
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def _mismatch(value: object, kind: shape.Type, path: Path) -> Blame:
    """Return the blame for a value that is missing, of the wrong type, out of range, or no known word."""
    right = _expected(kind)
    if isinstance(value, _Absent):
        return Blame(path=path, value=value, problem=f"missing; must be {right}")
    if isinstance(kind, shape.ListType):
        return Blame(path=path, value=value, problem=f"must be {right}{_as_a_list(value, kind.item_type, path)}")
    if isinstance(kind, shape.LiteralType):
        meant = nearest(str(value), [str(word) for word in kind.values])
        way = WAYS.get((str(path[-1]), str(value)))
        hint = ""
        if way is not None:
            hint = f"; {way}"
        elif meant == str(value):
            hint = f"; write it {'in' if isinstance(value, int | float) else 'without'} quotes"
        elif meant is not None:
            hint = f"; did you mean {shown(_literal(meant, kind))}?"
        return Blame(path=path, value=value, problem=f"must be {right}{hint}")
    leaf = isinstance(kind, shape.IntType | shape.FloatType | shape.BoolType)
    if leaf and isinstance(value, str) and value != "" and _fits(_unquoted(value), kind):
        return Blame(path=path, value=value, problem=f"must be {right}; write it without quotes")
    return Blame(path=path, value=value, problem=f"must be {right}{_not_a(value, kind)}")


def _as_a_list(value: object, kind: shape.Type, path: Path) -> str:
    """Return how a list is written, for what is none; ``kind`` is that of its items."""
    if isinstance(kind, shape.StructType | shape.UnionType):
        return f"; write [[{dotted(path)}]], not [{dotted(path)}]" if isinstance(value, dict) else ""
    if not isinstance(value, dict):
        return f"; write [{shown(value)}]" if _fits(value, kind) else _not_a(value, kind)
    example = shown(kind.values[0]) if isinstance(kind, shape.LiteralType) else "..."
    place = f"in [{dotted(path[:-1])}]" if path[:-1] else "above the first table"
    return f"; write {path[-1]} = [{example}] {place}"


def _literal(word: str, kind: shape.LiteralType) -> object:
    return next(right for right in kind.values if str(right) == word)


def _unquoted(text: str) -> object:
    """Return the number or truth value that a string spells."""
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _not_a(value: object, kind: shape.Type) -> str:
    """Name the type that was found, where the value alone does not show it."""
    if isinstance(value, dict) and not isinstance(kind, shape.StructType | shape.DictType):
        return ", not a table"
    if isinstance(value, list) and not isinstance(kind, shape.ListType):
        return ", not a list"
    return ""


def _expected(kind: shape.Type) -> str:
    """Return what a key of this type wants to be, in words."""
    if isinstance(kind, shape.UnionType):
        members = [member for member in kind.types if not isinstance(member, shape.NoneType)]
        return _expected(members[0])
    if isinstance(kind, shape.LiteralType):
        words = [shown(word) for word in kind.values]
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if isinstance(kind, shape.ListType):
        return f"a list of {_plural(kind.item_type)}"
    if isinstance(kind, shape.IntType):
        return f"an integer{_bounds(kind)}"
    if isinstance(kind, shape.FloatType):
        return f"a number{_bounds(kind)}"
    if isinstance(kind, shape.BoolType):
        return "true or false"
    if isinstance(kind, shape.StrType):
        return "a string that is not empty" if kind.min_length else "a string"
    return "a table"


def _plural(kind: shape.Type) -> str:
    if isinstance(kind, shape.IntType):
        return f"integers{_bounds(kind)}"
    if isinstance(kind, shape.LiteralType):
        return f"words out of {', '.join(shown(word) for word in kind.values)}"
    if isinstance(kind, shape.StructType | shape.UnionType):
        return "tables"
    return "values"


def _bounds(kind: shape.IntType | shape.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    if kind.gt is not None and kind.le is not None:
        return f" above {kind.gt}, at most {kind.le}"
    if kind.ge is not None:
        return f", {kind.ge} or more"
    if kind.gt is not None:
        return f" above {kind.gt}"
    return ""


def _unknown_key(key: str, known: Sequence[str], inner: Sequence[str], path: Path, top: shape.StructType) -> str:
    """Return what to write instead of a key that neither the table nor those inside it (``inner``, dotted) have."""
    here = [(*path, *name.split(".")) for name in meant_keys(key, [*known, *inner])]
    elsewhere = [place for place in _places(top) if place and place[-1] == key]
    if here and here[0][-1] in (key.replace("_", "-"), key.casefold()):
        elsewhere = []
    if here or elsewhere:
        where = "" if here else " here"
        return f"unknown key{where}; did you mean {_either([*here[:2], *elsewhere[: 1 if here else 2]])}?"
    places = {str(place[-1]): place for place in reversed(_places(top))}
    # from another table's keys, those that are written almost like it; at the top, where none belongs, other words too
    far = difflib.get_close_matches(key, places, n=1, cutoff=_ALIKE_FAR) or (
        meant_keys(key, list(places)[::-1], alike=1.0)[:2] if not path else []
    )
    if far:
        return f"unknown key; did you mean {_either([places[name] for name in far])}?"
    return f"unknown key; {dotted(path) or 'the top level'} knows {', '.join(known)}"


def _either(places: Sequence[Path]) -> str:
    return " or ".join(dotted(place) for place in dict.fromkeys(places))


def _places(top: shape.StructType) -> tuple[Path, ...]:
    """Return the path of every key there is, list entries under index 0."""
    found: list[Path] = []

    def descend(kind: shape.Type, path: Path) -> None:
        if isinstance(kind, shape.UnionType):
            for member in kind.types:
                descend(member, path)
        elif isinstance(kind, shape.ListType):
            descend(kind.item_type, (*path, 0))
        elif isinstance(kind, shape.StructType):
            for field in kind.fields:
                found.append((*path, field.encode_name))
                descend(field.type, (*path, field.encode_name))

    descend(top, ())
    return tuple(dict.fromkeys(found))
