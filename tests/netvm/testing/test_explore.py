"""`@explore` passes where nothing fails, and fails with a reproducer where something does."""

from pathlib import Path
from typing import Any

import pytest

from netvm.errors import UsageError
from netvm.explore.properties import Explorable
from netvm.explore.reproducer import load
from netvm.explore.subject import rerun
from netvm.mm.zone import Zone
from netvm.runtime.task import Resource, Task
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment
from netvm.testing.explore import RefutedError, ReservePolicy, explore, with_reserve, with_throttle

SMALL = scenario_from(
    {
        "machine": {"ram_mib": 24, "reserved_pages": 1024},
        "nic": {"kind": "e1000", "ring": 16},
        "storage": {"kind": "nbd", "size_mib": 64},
        "workload": [{"kind": "anon-hog", "mib": 24, "passes": 1}],
        "vm": {"min_free_kbytes": 512},
    },
    origin="test",
)


@explore("abstract/reserve", strategy="exhaustive")
def test_a_safe_machine_is_safe(run: Explorable) -> None:
    """A decorated test is collected and run like any other."""
    assert run.verdict() in ("COMPLETED", None)


def test_a_refuted_exploration_prints_what_replays_it(tmp_path: Path) -> None:
    """The error's text ends with a file that fails again."""

    @explore("abstract/reserve", overrides=["abstract.reserve=1"])
    def test(_run: Explorable) -> None: ...

    with pytest.raises(RefutedError, match="replayed 10 times") as caught:
        test()
    path = tmp_path / "r.toml"
    path.write_text(caught.value.reproducer)
    reproducer, subject = load(path)
    assert rerun(subject, reproducer.tape).broken is not None
    assert str(caught.value).endswith(caught.value.reproducer)


def test_an_assertion_of_the_test_is_a_property() -> None:
    """What the function asserts fails like a property of the product's."""

    @explore("abstract/reserve", overrides=["run.max_steps=50"])
    def test(run: Explorable) -> None:
        assert run.progress_made() < 3, "the user got three frames"

    with pytest.raises(RefutedError, match="test holds: the user got three frames"):
        test()


def test_a_reserve_policy_is_put_in_place() -> None:
    """A policy that keeps nothing back makes the safe machine hang."""

    class Nothing:
        def min_pages(self, zone: Zone) -> int:
            assert zone.managed == 8
            return 0

    @explore("abstract/reserve", replace=with_reserve(Nothing()))
    def test(_run: Explorable) -> None: ...

    with pytest.raises(RefutedError, match=r"HANG[\s\S]*without the test's policy"):
        test()


def test_a_policy_is_what_an_exhaustive_search_proves() -> None:
    """The steps that a policy leaves open are visited: a state is stuck with two frames of reserve and with eight."""

    class Keep:
        def __init__(self, nr_pages: int) -> None:
            self.nr_pages = nr_pages

        def min_pages(self, _zone: Zone) -> int:
            return self.nr_pages

    def refuted(nr_pages: int) -> bool:
        @explore("abstract/reserve", strategy="exhaustive", replace=with_reserve(Keep(nr_pages)))
        def test(_run: Explorable) -> None: ...

        try:
            test()
        except RefutedError:
            return True
        return False

    assert [nr_pages for nr_pages in range(9) if not refuted(nr_pages)] == [3, 4, 5, 6, 7]


def test_a_policy_without_its_method_is_refused() -> None:
    """Subclassing the protocol and misspelling its method fails where the policy is made."""

    class Misspelt(ReservePolicy):
        def min_page(self, _zone: Zone) -> int:
            return 0

    with pytest.raises(TypeError, match="min_pages"):
        Misspelt()  # type: ignore[abstract]  # what a user would see at run time


def test_a_throttle_is_asked_before_each_direct_reclaim() -> None:
    """One that makes everybody wait a millisecond is asked, and nothing hangs."""
    asked: list[str] = []
    pause = Resource("timer", "the throttle", external=True)

    class Slow:
        async def before_direct_reclaim(self, task: Task, run: Explorable) -> None:
            asked.append(task.comm)
            await run.world.sleep_on(task, pause, timeout_ns=1_000_000, kind=0)

    @explore(SMALL, schedules=1, replace=with_throttle(Slow()))
    def test(run: Explorable) -> None:
        assert isinstance(run, Experiment)
        assert len(asked) >= run.host.vmscan.direct_reclaim_latency.summary().count

    test()
    assert "hog" in asked


def test_nothing_seen_is_no_pass_where_that_is_asked() -> None:
    """Without ``allow_vacuous`` a guard that was never satisfied fails the test."""

    @explore("abstract/reserve", strategy="exhaustive", overrides=["abstract.bystanders=0"], allow_vacuous=False)
    def test(_run: Explorable) -> None: ...

    with pytest.raises(AssertionError, match="never seen: a packet was dropped at demux"):
        test()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scenario": "tiny/nbd-fixd"}, "did you mean tiny/nbd-fixed"),
        ({"scenario": "tiny"}, "several scenarios: .*name one"),
        ({"scenario": "abstract/reserve", "strategy": "randm"}, "strategy 'randm': must be one of random"),
        ({"scenario": "abstract/reserve", "mishaps": {"packt": 1}}, "mishap 'packt': must be one of packet"),
    ],
)
def test_what_does_not_exist_is_named(options: dict[str, Any], said: str) -> None:
    """A misspelt name is refused, not taken for a search that finds nothing."""

    @explore(**options)
    def test(_run: Explorable) -> None: ...

    with pytest.raises(UsageError, match=said):
        test()


def test_a_calm_boot_is_not_explored() -> None:
    """What precedes the first program has no choices."""

    def choices(*, calm_boot: bool) -> list[int]:
        @explore("tiny/nbd-fixed", strategy="delay", schedules=1, calm_boot=calm_boot)
        def test(run: Explorable) -> None:
            found[:] = run.world.choices

        found: list[int] = []
        test()
        return found

    assert 0 < len(choices(calm_boot=True)) < len(choices(calm_boot=False))
