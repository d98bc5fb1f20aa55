"""Arguments: readers of values and hints for words that are none."""

import argparse

import pytest

from netvm.cli.arguments import Parser, did_you_mean, natural, one_of
from netvm.errors import UsageError


@pytest.mark.parametrize("text", ["-1", "1.5", "", "x", "9223372036854775808", "9" * 5000, "²", "١٢"])
def test_natural_refuses(text: str) -> None:
    """Only digits that fit 64 bits are a natural number."""
    with pytest.raises(argparse.ArgumentTypeError, match="must be an integer from 0 to"):
        natural(text)


def test_natural_reads() -> None:
    """The ends of the range are in it."""
    assert (natural("0"), natural("9223372036854775807")) == (0, 2**63 - 1)


def test_one_of() -> None:
    """A word of the list is read, another one gets the nearest."""
    read = one_of("fifo", "random")
    assert read("fifo") == "fifo"
    with pytest.raises(argparse.ArgumentTypeError, match=r"did you mean fifo\?"):
        read("fif")
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'xyzzy': must be one of fifo, random$"):
        one_of("fifo", "random")("xyzzy")


def test_did_you_mean() -> None:
    """Either the nearest word, or all of them."""
    assert did_you_mean("lsit", ["list", "run"]) == "did you mean list?"
    assert did_you_mean("zzz", ["list", "run"]) == "must be one of list, run"
    assert did_you_mean("--sed", ["--json", "--seed"]) == "did you mean --seed?"
    assert did_you_mean("--set", ["--json", "--jobs"]) == "must be one of --json, --jobs"


def test_options_are_never_abbreviated() -> None:
    """A prefix of an option is unknown, so that scripts keep their meaning."""
    parser = Parser("run", "")
    parser.add_argument("--against")
    with pytest.raises(UsageError, match=r"unknown option --agai; did you mean --against\?"):
        parser.read(["--agai", "x"])
