"""The OOM killer: who goes, one at a time, and what becomes of its memory."""

from types import SimpleNamespace

import pytest

from netvm.mm.address_space import AddressSpace
from netvm.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOFS, GFP_NOIO, PF_OOM_VICTIM
from netvm.mm.oom import oom_badness
from netvm.units import NS_PER_S


def _space(*, nr_anon: int = 0, nr_swap: int = 0, tables: int = 0, adj: int = 0) -> AddressSpace:
    space = AddressSpace(1, "program", 1, oom_score_adj=adj)
    space.nr_anon, space.nr_swap, space.nr_page_tables = nr_anon, nr_swap, tables
    return space


@pytest.mark.parametrize(
    ("space", "total", "points"),
    [
        (_space(nr_anon=1000, nr_swap=500, tables=3), 85_370, 1503),
        (_space(nr_anon=1000, adj=500), 85_370, 1000 + 500 * 85),
        (_space(nr_anon=1000, adj=-500), 85_370, 1000 - 500 * 85),
        (_space(nr_anon=10, adj=1000), 999, 10),
        (_space(nr_anon=10, adj=1000), 1000, 1010),
    ],
)
def test_badness(space: AddressSpace, total: int, points: int) -> None:
    """Resident, swapped and page table pages, and oom_score_adj in whole thousandths of all memory."""
    assert oom_badness(space, total) == points


def _programs(host, task, *sizes: int, adj: dict[int, int] | None = None) -> list[AddressSpace]:
    """Return programs with so many pages each; they do not run."""
    spaces = []
    for i, size in enumerate(sizes):
        program = host.task(f"program{i}", 100 + i)
        space = host.memory.map_anonymous(program, max(size, 1), oom_score_adj=(adj or {}).get(i, 0))
        space.nr_anon = size
        spaces.append(space)
    return spaces


def _kill(host, gfp: int = GFP_KERNEL, *, task=None) -> list[str]:
    """Call the killer once; return all who were killed so far."""
    assert host.oom.out_of_memory(task or host.task("allocator", 77), gfp, 0)
    return [kill.victim for kill in host.oom.kills]


@pytest.mark.parametrize(
    ("sizes", "adj", "victim"),
    [
        ((10, 30, 20), {}, 1),
        ((10, 30, 20), {1: -1000}, 2),
        ((10, 30, 20), {1: -1000, 2: -1000}, 0),
        ((10, 30, 20), {0: 1000}, 0),
        ((10, 30, 20), {1: -20}, 2),
        ((30, 30, 20), {}, 1),
        ((0, 0, 0), {}, 2),
        ((10, 0), {0: -500, 1: -200}, 1),
    ],
)
def test_who_goes(make_host, sizes: tuple[int, ...], adj: dict[int, int], victim: int) -> None:
    """The highest score, however low; the youngest of equals; never who has -1000."""
    host = make_host()
    _programs(host, host.task(), *sizes, adj=adj)
    assert _kill(host) == [f"program{victim}"]


def test_swapped_pages_count(make_host) -> None:
    """A program that was swapped out is as large as ever."""
    host = make_host()
    small, large = _programs(host, host.task(), 30, 20)
    large.nr_swap = 11
    assert small.nr_swap == 0
    assert _kill(host) == ["program1"]


def test_a_kill_is_recorded_as_the_log_reports_it(make_host) -> None:
    """Who asked, for what, who went and how large it was; the victim is marked and signalled."""
    host = make_host(free=123)
    _, large = _programs(host, host.task(), 10, 30)
    host.swap.nr_free = 55
    host.vmstat.nr_writeback = 4
    _kill(host)
    (kill,) = host.oom.kills
    assert (kill.invoked_by, kill.gfp, kill.order, kill.victim) == ("allocator-77", GFP_KERNEL, 0, "program1")
    assert (kill.anon_rss_pages, kill.swap_pages, kill.free_swap_pages) == (30, 0, 55)
    assert (kill.pages_under_writeback, kill.free_pages, kill.time_ns) == (4, 123, 0)
    assert host.vmstat.oom_kill == 1
    assert large.killed
    assert large.task.killed
    assert large.task.flags & PF_OOM_VICTIM
    event, facts = host.logged[-1]
    assert event == "Out of memory: Killed process"
    assert (facts["comm"], facts["anon_rss_kib"], facts["gfp_mask"]) == ("program1", 120, "0xcc0(GFP_KERNEL)")


@pytest.mark.parametrize("gfp", [GFP_NOIO, GFP_NOFS])
def test_nobody_is_killed_for_a_request_without_fs(make_host, gfp: int) -> None:
    """It is told that there was progress and goes round again."""
    host = make_host()
    _programs(host, host.task(), 10, 30)
    assert _kill(host, gfp) == []
    assert host.vmstat.oom_kill == 0


def test_a_dying_task_is_its_own_victim(make_host) -> None:
    """With SIGKILL pending it gets access to the victim's reserve, and nobody else is killed."""
    host = make_host()
    _programs(host, host.task(), 10, 30)
    task = host.task()
    task.killed = True
    assert _kill(host, task=task) == []
    assert task.flags & PF_OOM_VICTIM


def test_one_victim_at_a_time(make_host) -> None:
    """While the last one has not gone, and was not reaped, the killer only says: wait."""
    host = make_host()
    first, second, _ = _programs(host, host.task(), 50, 30, 20)
    assert _kill(host) == _kill(host) == ["program0"]
    host.memory.shrinker.spaces.pop(first.id)
    assert _kill(host) == ["program0", "program1"]
    second.oom_reaped = True
    assert _kill(host) == ["program0", "program1", "program2"]


def test_a_victim_that_still_has_its_memory_is_who_could_provide(make_host) -> None:
    """Until it is gone or reaped it stands among the providers of memory, and must run itself."""
    host = make_host()
    spaces = _programs(host, None, 10, 30)
    assert host.oom.victims_on_their_way() == []
    _kill(host)
    (provider,) = host.oom.victims_on_their_way()
    assert provider.name == "killed program1-101, anon-rss 120 kB"
    assert provider.needs == (spaces[1].task,)
    spaces[1].oom_reaped = True
    assert host.oom.victims_on_their_way() == []


def test_the_machine_panics_when_nobody_is_left(make_host) -> None:
    """No candidate and no victim on its way: System is deadlocked on memory, and the run ends."""
    host = make_host()
    _programs(host, host.task(), 50, adj={0: -1000})

    async def body(task):
        host.oom.out_of_memory(task, GFP_KERNEL, 0)
        await host.pause(task, NS_PER_S)
        return "survived"

    assert host.run(body) is None
    assert host.oom.panicked
    assert host.logged[-1][0] == "Kernel panic - not syncing: System is deadlocked on memory"
    assert host.world.now_ns == 0


def test_nobody_goes_round_after_a_panic(make_host) -> None:
    """The request that found nobody to kill ends with the machine, also where looking again costs no time."""
    host = make_host(free=600, marks=(1000, 1250, 1500))
    found = []

    async def body(task):
        found.append(await host.pages.alloc_pages(task, 0, GFP_KERNEL, host.owner_test))
        await host.pause(task, NS_PER_S)
        return "survived"

    assert host.run(body) is None
    assert host.oom.panicked
    assert found == [-1]


def test_no_panic_while_the_last_victim_is_on_its_way(make_host) -> None:
    """It may free enough yet."""
    host = make_host()
    _programs(host, host.task(), 50)
    _kill(host)
    _kill(host)
    assert not host.oom.panicked


def test_panic_on_oom_kills_nobody(make_host) -> None:
    """Sysctl panic_on_oom: the machine stops; 1 leaves memory groups to their own killer, 2 does not."""
    for setting, group, panics in ((0, False, False), (1, False, True), (1, True, False), (2, True, True)):
        host = make_host()
        _programs(host, host.task(), 50)
        host.oom.panic_on_oom = setting
        memcg = SimpleNamespace(
            id=0,
            name="group",
            limit_pages=100,
            may_swap=False,
            usage_pages=100,
            nr_oom_kill=0,
            lruvec=host.lruvec,
            nr_writeback=lambda _frames: 0,
        )
        went_on = host.oom.out_of_memory(host.task("allocator", 77), GFP_KERNEL, 0, memcg=memcg if group else None)
        assert (went_on, bool(host.oom.panicked)) == (not panics, panics)
        assert len(host.oom.kills) == (not panics)
    assert host.oom.panicked == "Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled"


def test_who_asked_may_be_who_goes(make_host) -> None:
    """Sysctl oom_kill_allocating_task: not the largest, unless who asked is no program or may not be killed."""
    host = make_host()
    host.oom.oom_kill_allocating_task = 1
    small, spared, large = _programs(host, host.task(), 10, 20, 30, adj={1: -1000})
    assert small.task is not None
    assert spared.task is not None
    assert _kill(host, task=small.task) == [small.comm]
    other = make_host()
    other.oom.oom_kill_allocating_task = 1
    _small, spared, large = _programs(other, other.task(), 10, 20, 30, adj={1: -1000})
    assert _kill(other, task=spared.task) == [large.comm]


@pytest.mark.parametrize(("fix", "freed"), [(True, 200), (False, 0)])
def test_the_reaper_frees_a_stuck_victim_after_two_seconds(make_host, fix: bool, freed: int) -> None:
    """Fix ``oom_reaper``: the victim's memory comes back without the victim running; before 4.6 it did not."""
    host = make_host(switches={"oom_reaper": fix})
    host.stuck = None

    async def victim(task):
        space = await host.mapped(task, 200)
        host.stuck = space
        # uninterruptible: the signal does not reach it
        await host.world.sleep_ns(task, 60 * NS_PER_S, host.pages.memory)
        host.memory.exit_mmap(space)

    async def body(task):
        host.world.spawn("victim", victim)
        await host.pause(task, NS_PER_S)
        before = host.owned("anon")
        host.oom.out_of_memory(task, GFP_KERNEL, 0)
        await host.pause(task, host.world.wheel_ns(2 * NS_PER_S) - 1)
        assert host.owned("anon") == before
        await host.pause(task, 2)
        assert before - host.owned("anon") == freed
        assert host.stuck.oom_reaped == fix
        assert host.stuck.nr_anon == 200 - freed
        host.audit()
        # with it the way is free for another
        _programs(host, task, 0)
        host.oom.out_of_memory(task, GFP_KERNEL, 0)
        assert len(host.oom.kills) == (2 if fix else 1)
        await host.pause(task, 60 * NS_PER_S)
        assert host.owned("anon") == 0

    host.run(body)
    assert any(event.startswith("oom_reaper") for event, _ in host.logged) == fix
    host.audit()


def test_the_reaper_leaves_a_victim_alone_that_has_gone(make_host) -> None:
    """A program that exits within the two seconds is not reaped."""
    host = make_host()

    async def victim(task):
        space = await host.mapped(task, 200)
        try:
            await host.world.sleep_on(task, host.pages.memory, timeout_ns=60 * NS_PER_S, killable=True)
        finally:
            host.memory.exit_mmap(space)

    async def body(task):
        host.world.spawn("victim", victim)
        await host.pause(task, NS_PER_S)
        host.oom.out_of_memory(task, GFP_KERNEL, 0)
        await host.pause(task, 1)
        assert host.owned("anon") == 0
        await host.pause(task, 3 * NS_PER_S)

    host.run(body)
    assert not any(event.startswith("oom_reaper") for event, _ in host.logged)


def test_the_lock_is_taken_by_one(host) -> None:
    """Who comes second fails until it is released."""
    assert host.oom.trylock()
    assert not host.oom.trylock()
    host.oom.unlock()
    assert host.oom.trylock()


def test_two_hogs_without_swap_end_with_one(make_host) -> None:
    """The larger program dies, its pages come back, and the other gets all it asks for."""
    host = make_host(zones=(("DMA32", 1024),), marks=(20, 25, 30), cpus=1)
    done = {}

    async def hog(task, nr_pages):
        space = host.memory.map_anonymous(task, nr_pages)
        try:
            done[task.comm] = await host.memory.touch_run(task, space, 0, nr_pages, write=True)
            await host.pause(task, 20 * NS_PER_S)
        finally:
            if not host.world.stopped:
                host.memory.exit_mmap(space)

    async def body(task):
        host.world.spawn("small", hog, 400, cpus=host.cpus)
        host.world.spawn("large", hog, 900, cpus=host.cpus)
        await host.pause(task, 60 * NS_PER_S)

    host.run(body, kswapd=True)
    assert [kill.victim for kill in host.oom.kills] == ["large"]
    assert host.oom.kills[0].gfp & GFP_HIGHUSER_MOVABLE == GFP_HIGHUSER_MOVABLE
    assert done["small"]
    assert not done.get("large")
    assert host.owned("anon") == host.owned("page_tables") == 0
    host.audit()


def test_all_threads_of_a_victim_die(make_host) -> None:
    """Each gets the signal and access to the reserve."""
    host = make_host()
    victim, other = host.task("victim", 100), host.task("victim.1", 101)
    space = host.memory.map_anonymous(victim, 10, nr_threads=2)
    host.memory.clone_vm(other, space)
    space.nr_anon = 10
    assert _kill(host) == ["victim"]
    assert all(task.killed and task.flags & PF_OOM_VICTIM for task in (victim, other))
