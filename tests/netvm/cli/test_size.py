"""`netvm size`: the edge, both sides of it, and exit codes."""

import json

import pytest

from netvm.cli.app import main


def test_the_edge_of_a_small_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """W + 1 = 3 is proved, 2 is refuted; the analytic bound has no slack."""
    arguments = ["size", "abstract/reserve", "--knob", "reserve.pages", "--around", "0", "--schedules", "2", "--json"]
    assert main([*arguments, "--set", "abstract.frames=8"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["smallest_safe"] == 3
    assert (told["at"]["result"], told["below"]["result"]) == ("proved", "refuted")
    assert (told["analytic_pages"], told["slack_pages"]) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--knob", "abstract.priority"], 2, "must be a whole number, is True"),
        (["--knob", "vm.swapiness"], 2, "no such key"),
        (["--knob", "reserve.pages", "--low", "9", "--high", "8"], 2, "--high 8: must be at least --low, which is 9"),
        (["--knob", "reserve.pages", "--set", "abstract.priority=false"], 1, "no safe value"),
    ],
)
def test_what_cannot_be_found_is_told(
    arguments: list[str], code: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A knob that is none, and one that is never safe."""
    assert (
        main(["size", "abstract/reserve", *arguments, "--set", "abstract.frames=3", "--set", "abstract.reserve=1"])
        == code
    )
    captured = capsys.readouterr()
    assert what in captured.out + captured.err


def test_an_edge_that_is_where_the_search_began_is_called_that(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said of the values below, and it is told."""
    arguments = ["size", "abstract/reserve", "--knob", "reserve.pages", "--around", "0", "--schedules", "2"]
    assert main([*arguments, "--low", "5", "--set", "abstract.frames=8"]) == 0
    assert "below it: not tried" in capsys.readouterr().out
    assert main([*arguments, "--set", "abstract.frames=8"]) == 0
    assert "not tried" not in capsys.readouterr().out
