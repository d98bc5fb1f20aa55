"""The ports of mm: who plugs into them offers what they ask for."""

import inspect

import pytest

from netvm.block.plug import Plug
from netvm.block.swap import SwapArea
from netvm.mm.ports import PlugPort, SwapPort


def _asked(port: type) -> dict[str, object]:
    return {name: member for name, member in vars(port).items() if inspect.isfunction(member) and name[0] != "_"}


@pytest.mark.parametrize(("port", "implementation"), [(SwapPort, SwapArea), (PlugPort, Plug)])
def test_an_implementation_has_every_door(port: type, implementation: type) -> None:
    """Each function of the port is there, takes the same arguments, and sleeps where the port may sleep."""
    asked = _asked(port)
    assert asked
    for name, function in asked.items():
        found = getattr(implementation, name)
        assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(function), name
        assert list(inspect.signature(found).parameters) == list(inspect.signature(function).parameters), name


def test_the_swap_port_says_whether_it_needs_the_file_system() -> None:
    """A block device does not: writing to it asks for __GFP_IO only."""
    assert "needs_fs" in SwapPort.__annotations__
    assert SwapArea.needs_fs is False


def test_the_swap_port_says_whether_a_write_is_waited_for() -> None:
    """Nobody waits for a write to a block device, nor to a file since there are batches."""
    assert "writes_synchronously" in SwapPort.__annotations__
    assert SwapArea.writes_synchronously is False


def test_a_swap_area_starts_whole(make_host) -> None:
    """All slots but the header's are free, and no write is under way."""
    swap = make_host(swap_pages=512).swap
    assert swap.nr_free_slots() == swap.nr_total_slots() == 511
    assert not swap.is_full()
