"""How the verbs read their arguments: argparse, with errors in netvm's style.

A mistake is one line with a did-you-mean, raised as :class:`~netvm.errors.UsageError` like any other mistake of the
user's. Options are never abbreviated: a scenario run from a script keeps its meaning when an option is added.
"""

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from netvm.errors import UsageError
from netvm.user_file import is_standard_stream

__all__ = ["Parser", "add_overrides", "add_property_files", "check_read_once", "did_you_mean", "natural", "one_of"]


class Parser(argparse.ArgumentParser):
    """The arguments of one verb."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            prog=f"netvm {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.verb = verb

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the arguments; options may stand between names. Raises UsageError."""
        arguments, extra = self.parse_known_intermixed_args(argv)
        for word in extra:
            if word.startswith("-") and word != "-":
                option = word.partition("=")[0]
                raise UsageError(f"{self.verb}: unknown option {option}; {did_you_mean(option, self._options())}")
            raise UsageError(f"{self.verb}: unexpected argument {word!r}; see `netvm {self.verb} --help`")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage and leaving."""
        what = message.removeprefix("argument ").replace("the following arguments are required: ", "missing ")
        raise UsageError(f"{self.verb}: {what}; see `netvm {self.verb} --help`")

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]


def add_property_files(parser: argparse.ArgumentParser, *, purpose: str) -> None:
    """Declare ``--property FILE``, which may be repeated."""
    parser.add_argument(
        "--property",
        metavar="FILE",
        dest="property_files",
        type=Path,
        action="append",
        default=[],
        help=f"{purpose}; may be repeated",
    )


def add_overrides(parser: argparse.ArgumentParser, *, example: str = "") -> None:
    """Declare ``--set KEY=VALUE``, which overrides keys of a scenario."""
    such = f", e.g. {example}" if example else ""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help=f"override one key of the scenario{such}; may be repeated",
    )


def check_read_once(verb: str, *paths: Path | None) -> None:
    """Raise UsageError if standard input is named more than once: it can be read once."""
    if sum(path is not None and is_standard_stream(path) for path in paths) > 1:
        raise UsageError(f"{verb}: -: standard input can be named once; the others must be files")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the end of an error about an unknown ``word``: the nearest known one, or all of them."""
    meant = _nearest(word, known)
    return f"did you mean {meant}?" if meant else f"must be one of {', '.join(known)}"


def _nearest(word: str, known: Sequence[str]) -> str:
    """Return the known word that is meant; the dashes of an option are nothing that two have in common."""
    bare = {one.lstrip("-"): one for one in known}
    match = difflib.get_close_matches(word.lstrip("-"), bare, n=1, cutoff=0.5)
    return bare[match[0]] if match else ""


def natural(text: str) -> int:
    """Read an integer that is not negative and fits 64 bits."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r}: must be an integer from 0 to 2**63 - 1")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader that takes one of ``words``."""

    def read(text: str) -> str:
        if text not in words:
            meant = _nearest(text, words)
            hint = f"; did you mean {meant}?" if meant else ""
            raise argparse.ArgumentTypeError(f"{text!r}: must be one of {', '.join(words)}{hint}")
        return text

    return read
