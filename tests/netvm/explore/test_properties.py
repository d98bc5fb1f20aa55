"""The properties look where they say: each is tried on a run in which it fails, or holds."""

import pickle
from collections.abc import Callable

from netvm.explore import properties
from netvm.explore.oracles import SteeredOracle
from netvm.explore.properties import Always, Sometimes
from netvm.explore.subject import Subject


def test_what_stands_still_is_told_with_its_reason(machine: Callable[..., Subject]) -> None:
    """The verdict, and the first line of the explanation."""
    run = machine(frames=2, reserve=0, writebacks=1).run(SteeredOracle([])).experiment
    what = properties.no_standstill.wrong(run)
    assert what is not None
    assert what.startswith("HANG: hung after")


def test_a_reserve_page_in_ordinary_hands_is_told(machine: Callable[..., Subject]) -> None:
    """A dirty frame that came out of the reserve fails; one of the sender's does not."""
    run = machine(frames=6, reserve=3, writebacks=1).run(SteeredOracle([])).experiment
    assert properties.books_balance.wrong(run) is None
    run.machine.ledger.by_owner_at_peak = {"dirty": 1}  # type: ignore[union-attr]  # an abstract run
    assert properties.books_balance.wrong(run) == "dirty held 1 pages of the reserve"


def test_every_property_has_a_name_of_its_own() -> None:
    """Results name properties, so no two share a name; both kinds are there."""
    names = [prop.name for prop in properties.PROPERTIES]
    assert len(set(names)) == len(names)
    assert {type(prop) for prop in properties.PROPERTIES} == {Always, Sometimes}


def test_the_reserve_is_seen_in_use(machine: Callable[..., Subject]) -> None:
    """A machine that never goes below its reserve has not tried it."""
    used = machine(frames=6, reserve=3, writebacks=1).run(SteeredOracle([])).experiment
    assert properties.reserve_used.seen(used)
    unused = machine(frames=6, reserve=3, writebacks=0, bystanders=0).run(SteeredOracle([])).experiment
    assert not properties.reserve_used.seen(unused)


def test_every_property_travels_to_another_process() -> None:
    """A property that was pickled and read again is the same one."""
    for prop in properties.PROPERTIES:
        assert pickle.loads(pickle.dumps(prop)) is prop
