"""Programs that use memory: what each touches, in which order, and what becomes of it."""

from collections import Counter
from typing import Any

import pytest

from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment


def ended(*workload: dict[str, Any], ram_mib: int = 64, swap_mib: int = 64, **tables: Any) -> Experiment:
    """Run programs on a machine with a local disk for swap, to their end."""
    tables = {
        "machine": {"ram_mib": ram_mib},
        "storage": {"kind": "disk", "size_mib": swap_mib},
        "workload": list(workload),
    } | tables
    experiment = Experiment(scenario_from(tables, origin="small"), name="small")
    run_virtual(experiment.run)
    return experiment


def hog(**keys: Any) -> dict[str, Any]:
    """Return a hog of 1 MiB."""
    return {"kind": "anon-hog", "mib": 1} | keys


@pytest.mark.parametrize("pattern", ["seq", "rand", "hot", "zipf"])
def test_each_pass_touches_as_often_as_there_are_pages(pattern: str) -> None:
    """The first pass faults every page in, a later one touches as many; without pressure none is a major fault."""
    (program,) = ended(hog(pattern=pattern, passes=3)).programs
    assert program.finished
    assert [result.touches.nr_touches for result in program.passes] == [256, 256, 256]
    assert program.passes[0].minflt == 256
    assert all(result.majflt == 0 for result in program.passes)


def touched(pattern: str) -> Counter[int]:
    """Return how often each page of 1 MiB is touched in ten later passes."""
    counts: Counter[int] = Counter()
    tables = {"machine": {"ram_mib": 64}, "storage": {"kind": "disk"}, "workload": [hog(pattern=pattern, passes=11)]}
    experiment = Experiment(scenario_from(tables, origin="small"), name="small")
    touch = experiment.host.memory.touch_run

    async def touch_run(task: Any, space: Any, vpn: int, nr: int, **how: Any) -> bool:
        if how.get("read_first"):
            counts.update(range(vpn, vpn + nr))
        return await touch(task, space, vpn, nr, **how)

    experiment.host.memory.touch_run = touch_run  # type: ignore[method-assign]  # the test counts touches
    run_virtual(experiment.run)
    return counts


def test_patterns_differ_as_they_are_named() -> None:
    """``seq`` touches all alike; ``hot`` four of five times the first fifth; ``zipf`` the first pages most."""
    assert set(touched("seq").values()) == {10}
    hot = touched("hot")
    share = sum(count for page, count in hot.items() if page < 51) / hot.total()
    assert 0.75 < share < 0.85
    zipf = touched("zipf")
    assert zipf[0] > 20 * (zipf[200] + 1)
    assert len(touched("rand")) > 240


def test_processes_have_their_own_memory_and_names() -> None:
    """Three processes of one hog are three programs, and all of them end."""
    experiment = ended(hog(processes=3))
    assert [program.name for program in experiment.programs] == ["hog0", "hog1", "hog2"]
    assert all(program.finished for program in experiment.programs)
    assert experiment.host.vmstat.nr_anon_pages == 0
    assert experiment.audit() == []


@pytest.mark.parametrize("pattern", ["seq", "rand"])
def test_a_small_program_touches_only_the_start_of_its_memory(pattern: str) -> None:
    """Of 1 MiB the first 32 KiB are touched in every pass, and no other page is ever had."""
    (program,) = ended(hog(touch_kib=32, passes=3, pattern=pattern)).programs
    assert [result.touches.nr_touches for result in program.passes] == [8, 8, 8]
    assert program.passes[0].minflt == 8


def test_a_paced_hog_takes_its_time() -> None:
    """A pause after each touch adds up."""
    (program,) = ended(hog(think_ns=1_000_000, passes=1)).programs
    assert 256_000_000 <= program.ended_ns - program.begun_ns <= 270_000_000


def test_a_pulse_gives_back_what_it_took() -> None:
    """Each pulse maps, holds and unmaps; between and after them its memory is free."""
    pulse = {"kind": "anon-pulse", "mib": 2, "hold_ms": 10, "idle_ms": 10, "repeats": 3}
    experiment = ended(pulse)
    (program,) = experiment.programs
    assert program.finished
    assert [result.touches.nr_touches for result in program.passes] == [512] * 3
    assert experiment.host.vmstat.nr_anon_pages == 0


def test_too_much_memory_is_an_oom_kill() -> None:
    """A hog larger than RAM and swap together is killed, and what it held is free again."""
    experiment = ended(hog(mib=48, passes=1), ram_mib=24, swap_mib=8)
    (program,) = experiment.programs
    assert program.killed
    assert not program.finished
    assert experiment.outcome().verdict == "OOM"
    assert experiment.audit() == []


@pytest.mark.parametrize("per_vma_lock", [False, True])
def test_threads_share_the_memory_and_each_goes_over_its_part(per_vma_lock: bool) -> None:
    """Also under pressure; when the last has ended, nothing is left of it."""
    fixes = {"fixes": {"per_vma_lock": per_vma_lock}}
    machine = {"ram_mib": 24, "cpus": 2}
    experiment = ended(hog(mib=10, threads=4, passes=2, processes=2), ram_mib=24, machine=machine, kernel=fixes)
    assert [program.name for program in experiment.programs[:5]] == ["hog0", "hog0.1", "hog0.2", "hog0.3", "hog1"]
    assert all(program.finished for program in experiment.programs)
    assert all([result.touches.nr_touches for result in p.passes] == [640, 640] for p in experiment.programs)
    assert experiment.host.vmstat.pswpout > 0
    assert experiment.host.vmstat.nr_anon_pages == 0
    assert experiment.outcome().audit == []


def test_a_program_with_threads_can_be_killed() -> None:
    """With more memory than there is and no swap all its threads end, and its memory comes back."""
    experiment = ended(hog(mib=64, threads=4), ram_mib=24, swap_mib=1)
    assert all(program.killed for program in experiment.programs)
    assert len(experiment.host.oom.kills) == 1
    assert experiment.outcome().audit == []


def test_the_image_of_a_hog_is_swapped_and_wanted() -> None:
    """Eleven more pages are faulted in; under pressure the report of a pass finds its pages gone."""
    (plain,) = ended(hog(passes=1)).programs
    experiment = ended(hog(passes=1, image=True))
    assert experiment.outcome().vmstat["pgfault"] == 256 + 11
    assert experiment.programs[0].passes[0].minflt == plain.passes[0].minflt
    swapped = ended(hog(mib=48, passes=2, image=True))
    between = swapped.outcome().vmstat["pgmajfault"] - sum(result.majflt for result in swapped.programs[0].passes)
    assert swapped.programs[0].finished
    assert 1 <= between <= 2 * 5
    assert swapped.outcome().audit == []


@pytest.mark.parametrize("image", [False, True])
def test_a_hog_that_is_cut_off_has_not_finished(*, image: bool) -> None:
    """In the middle of a pass, as when a machine hangs, it is neither done nor killed, nor has it met an error."""
    experiment = ended(hog(mib=48, image=image), run={"max_virtual_s": 0.05})
    (program,) = experiment.programs
    assert program.passes
    assert (program.finished, program.killed, program.bus_error) == (False, False, False)
    assert not experiment.outcome().workload[0].finished
