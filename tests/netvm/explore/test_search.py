"""Each strategy finds what is there, says no more than it knows, and a failure comes with its proof."""

import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.errors import UsageError
from netvm.explore.properties import PROPERTIES, Explorable, always
from netvm.explore.search import STRATEGIES, Budget, UnsteadyError, _keep_delayed, check
from netvm.explore.subject import Subject
from netvm.scenario.catalog import find
from netvm.scenario.load import load_scenario

SAFE = {"frames": 6, "reserve": 3, "writebacks": 1, "bystanders": 1, "drop": True}
SMALL_RESERVE = {"frames": 6, "reserve": 1, "writebacks": 1, "bystanders": 1, "drop": True}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_a_hang(machine: Callable[..., Subject], strategy: str) -> None:
    """A reserve of one frame for one writer hangs: refuted, with a tape that failed ten times more."""
    result = check(machine(**SMALL_RESERVE), strategy=strategy, budget=Budget(nr_schedules=300))
    assert result.result == "refuted"
    assert result.failure is not None
    assert result.failure.replays == 10
    assert "HANG" in result.failure.what
    assert result.first_failure_at == result.failure.schedule


def test_only_an_exhausted_search_proves(machine: Callable[..., Subject]) -> None:
    """Of a safe machine: exhaustive proves, delay bounds by delays, a sample bounds a rate."""
    short, long = machine(**SAFE, max_steps=60), machine(**SAFE)
    by_strategy = {
        s: check(long if s == "exhaustive" else short, strategy=s, budget=Budget(nr_schedules=200)) for s in STRATEGIES
    }
    assert {s: r.result for s, r in by_strategy.items()} == {
        "random": "statistical",
        "pct": "statistical",
        "pos": "statistical",
        "delay": "bounded",
        "exhaustive": "proved",
    }
    assert by_strategy["delay"].bound["delays"] >= 0
    assert by_strategy["random"].bound["failure_rate_at_most"] == pytest.approx(1 - 0.05 ** (1 / 200), abs=0.01)


def test_a_limit_is_never_a_pass(machine: Callable[..., Subject]) -> None:
    """An exhaustive search that is cut short is bounded; one that ran nothing decides nothing."""
    subject = machine(**SAFE)
    short = check(subject, strategy="exhaustive", budget=Budget(nr_schedules=3))
    assert short.result == "bounded"
    assert short.bound["untried"] > 0
    nothing = check(subject, strategy="random", budget=Budget(nr_schedules=0))
    assert not nothing.decided
    assert nothing.statement.startswith("nothing decided")


def test_a_livelock_is_decided(machine: Callable[..., Subject]) -> None:
    """Without a writer bystanders come and are dropped for ever: that is a non-progress cycle, not a deadlock."""
    result = check(machine(frames=4, reserve=2, writebacks=0, bystanders=1, drop=True), strategy="exhaustive")
    assert result.failure is not None
    assert "LIVELOCK" in result.failure.what


def test_what_was_never_seen_is_named(machine: Callable[..., Subject]) -> None:
    """Nothing is dropped where nobody drops: the search says that it says nothing about it."""
    result = check(machine(**SAFE | {"bystanders": 0}), strategy="exhaustive")
    assert result.vacuous == ["a packet was dropped at demux"]


def test_a_users_property_is_looked_at(machine: Callable[..., Subject]) -> None:
    """One decorated function is a property like any other."""

    @always("the user never gets a third frame")
    def third(run: Explorable) -> str | None:
        return "it did" if run.progress_made() > 2 else None

    subject = machine(**SAFE)
    own = Subject(scenario=subject.scenario, name="own", properties=[*PROPERTIES, third])
    result = check(own, strategy="random")
    assert result.failure is not None
    assert (result.failure.property, result.failure.what) == ("the user never gets a third frame", "it did")


def test_a_failure_that_does_not_come_again_is_our_bug(machine: Callable[..., Subject]) -> None:
    """What failed once and not in a replay is raised, never reported."""
    times = iter([True])

    @always("fails once")
    def once(_run: Explorable) -> str | None:
        return "now" if next(times, False) else None

    own = Subject(scenario=machine(**SAFE).scenario, name="own", properties=[once])
    with pytest.raises(UnsteadyError, match="not deterministic"):
        check(own, strategy="random")


def test_an_unknown_strategy_is_refused(machine: Callable[..., Subject]) -> None:
    """The message lists what there is."""
    with pytest.raises(UsageError, match="must be one of random, pct, pos, delay, exhaustive"):
        check(machine(**SAFE), strategy="luck")


@pytest.mark.slow
def test_a_whole_host_is_proved_and_its_like_over_a_network_refuted() -> None:
    """Every schedule of the smallest host that swaps to a disk is run; over NBD some random one kills a program."""
    subjects = {
        name: Subject(scenario=load_scenario(find(name)[0].path), name=name, calm_boot=True)
        for name in ("tiny/disk", "tiny/nbd")
    }
    disk = check(subjects["tiny/disk"], strategy="delay", budget=Budget(nr_schedules=1000))
    assert disk.result == "proved"
    assert disk.schedules == disk.distinct
    assert "direct reclaim was entered" not in disk.vacuous
    assert check(subjects["tiny/nbd"], budget=Budget(nr_schedules=40)).result == "refuted"


@pytest.mark.slow
def test_priority_sockets_are_proved_and_their_lack_refuted_on_a_host_that_swaps_over_a_network() -> None:
    """All schedules of the one arm pass, with direct reclaim and the reserve seen; the calm one of the other hangs."""
    broken, fixed = (
        check(
            Subject(scenario=load_scenario(find(name)[0].path), name=name, calm_boot=True),
            strategy="delay",
            budget=Budget(nr_schedules=1000),
        )
        for name in ("tiny/nbd-broken", "tiny/nbd-fixed")
    )
    assert (broken.result, broken.first_failure_at) == ("refuted", 1)
    assert fixed.result == "proved"
    assert fixed.schedules == fixed.distinct
    assert fixed.vacuous == ["a packet was dropped at demux"]


@given(
    choices=st.lists(st.integers(1, 4).flatmap(lambda width: st.tuples(st.integers(0, width - 1), st.just(width)))),
    first=st.integers(0, 8),
    delays=st.integers(0, 3),
)
def test_every_choice_behind_a_prefix_is_delayed_once(choices: list[tuple[int, int]], first: int, delays: int) -> None:
    """Each option of each of them, in the row of what it costs, in the order in which the choices were made."""
    tape, widths = [option for option, _ in choices], [width for _, width in choices]
    rows: list[deque[Iterator[tuple[int, ...]]]] = [deque()]
    _keep_delayed(rows, tape, widths, first, delays)
    naive: dict[int, list[tuple[int, ...]]] = {}
    for position in range(first, len(widths)):
        for option in range(1, widths[position]):
            naive.setdefault(delays + option, []).append((*tape[:position], option))
    kept = {cost: [prefix for line in row for prefix in line] for cost, row in enumerate(rows)}
    assert {cost: prefixes for cost, prefixes in kept.items() if prefixes} == naive


def test_what_is_to_be_tried_of_a_long_schedule_takes_little_memory() -> None:
    """Some bytes a choice, not a copy of all choices before it."""
    rows: list[deque[Iterator[tuple[int, ...]]]] = [deque()]
    tracemalloc.start()
    _keep_delayed(rows, [0] * 20_000, [3] * 20_000, 0, 0)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 20_000 * 8
