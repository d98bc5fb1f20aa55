r"""Text that may come from anywhere, made fit to be shown.

A task may call itself what it likes (prctl(PR_SET_NAME)), and a trace may come from anyone; a terminal obeys what it is
shown. So control characters are written out as the kernel does it (lib/string_helpers.c, ``ESCAPE_HEX``), a newline as
``\x0a``. What else does not print, such as the marks that turn the direction of writing, is written as JSON has it, in
which it may stand as it is: JSON stays JSON.
"""

from typing import Any

__all__ = ["printable", "printable_strings"]


def printable(text: str, *, keep: str = "") -> str:
    """Return ``text`` with every character that does not print written out, but for those in ``keep``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _written_out(character) for character in text
    )


def printable_strings(value: Any) -> Any:
    """Return what JSON holds with all its strings printable, the keys too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_strings(key): printable_strings(item) for key, item in value.items()}
    return [printable_strings(item) for item in value] if isinstance(value, list) else value


def _written_out(character: str) -> str:
    if character < " ":
        return f"\\x{ord(character):02x}"
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
