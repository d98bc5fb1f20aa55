"""Backends are found by name, and a name that is none is refused."""

import pytest

from netvm.errors import UsageError
from netvm.host.backend import load_backend


@pytest.mark.parametrize("kind", ["disk", "iscsi", "nbd"])
def test_installed_backends_are_found_by_their_entry_point(kind: str) -> None:
    """The factory comes from the package that announces the name; netvm itself imports none."""
    factory = load_backend(kind)
    assert callable(factory)
    assert factory.__module__ == f"storage_backends.{kind}.plugin"


def test_unknown_backend_names_key_value_and_what_there_is() -> None:
    """One line for a user."""
    with pytest.raises(UsageError) as caught:
        load_backend("floppy")
    message = str(caught.value)
    assert message.startswith("storage.kind = 'floppy'")
    assert "disk, iscsi, nbd" in message
    assert "\n" not in message
