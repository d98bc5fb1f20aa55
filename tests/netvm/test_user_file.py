"""Files of the user's: what a dash means, and how a failure to write is told."""

import errno
from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.user_file import check_not_read, is_standard_stream, writing


@pytest.mark.parametrize(("name", "is_standard"), [("-", True), ("--", False), ("a-", False), ("a/-", False)])
def test_a_dash_is_a_standard_stream(name: str, *, is_standard: bool) -> None:
    """Only the dash alone."""
    assert is_standard_stream(Path(name)) == is_standard


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_cannot_be_written_is_told(error: OSError, why: str) -> None:
    """The target, and the reason in the system's words or, without a number, the error's."""
    with pytest.raises(UsageError, match=f"^a/b: cannot be written: {why}$"), writing(Path("a/b")):
        raise error


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), UsageError("x"), ValueError("x")])
def test_other_errors_are_passed_on(error: Exception) -> None:
    """A reader who left, and what is no failure to write."""
    with pytest.raises(type(error)) as caught, writing("a"):
        raise error
    assert caught.value is error


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    """By another name neither; a file that is not there yet, or none at all, is nobody's."""
    trace, link = tmp_path / "trace.txt", tmp_path / "link.txt"
    trace.write_text("trace")
    link.symlink_to(trace)
    for target in (trace, link):
        with pytest.raises(UsageError, match="is what is read, and would be lost"):
            check_not_read(target, None, trace)
    check_not_read(tmp_path / "page.html", trace, None)
    check_not_read(Path("/dev/null"), Path("/dev/null"))
