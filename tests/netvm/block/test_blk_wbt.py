"""Writeback throttling: tokens, whose they are, who is woken, and how the depth follows the reads."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.block.blk_mq import Request
from netvm.block.blk_wbt import REQ_BACKGROUND, REQ_SWAP, REQ_SYNC, Wbt, max_depth_of
from netvm.mm.gfp import PF_KSWAPD
from netvm.units import NS_PER_MS, NS_PER_S

_LAT_NS = 2 * NS_PER_MS


def _throttle(host: Any, **options: Any) -> Wbt:
    """Give the small host's queue a throttle."""
    host.queue.wbt = wbt = Wbt(
        host.world,
        "fake0",
        **{
            "min_lat_ns": _LAT_NS,
            "queue_depth": 256,
            "write_cache": False,
            "fixes": host.fixes,
            "providers": list,
            **options,
        },
    )
    return wbt


async def _submit(host: Any, task: Any, slot: int, *, opf: int = 0, write: bool = True, nr: int = 1) -> None:
    """Submit a run of pages under a plug of its own."""
    plug = host.queue.start_plug(task)
    await host.submit_pages(task, plug, slot, nr, write=write, opf=opf)
    plug.finish()


# -- depth ------------------------------------------------------------------------------------------------------------


def test_the_depth_is_halved_and_doubled_from_sixteen() -> None:
    """Down to one request, up to three quarters of the queue."""
    assert [max_depth_of(step, 256) for step in range(5)] == [(n, False) for n in (16, 8, 4, 2, 1)]
    assert [max_depth_of(-step, 256) for step in range(1, 5)] == [(31, False), (61, False), (121, False), (192, True)]
    assert max_depth_of(0, 4) == (4, False)
    assert [max_depth_of(step, 1) for step in (0, 1, -1)] == [(2, True), (1, False), (2, True)]


@pytest.mark.parametrize(
    ("step", "limits"), [(0, (16, 8, 4)), (1, (8, 4, 2)), (2, (4, 2, 1)), (3, (2, 2, 1)), (4, (1, 1, 1))]
)
def test_ordinary_writes_have_half_and_background_a_quarter(
    make_host: Any, step: int, limits: tuple[int, int, int]
) -> None:
    """Synchronous writes have all of the depth; nobody has read of late."""
    host = make_host()
    wbt = _throttle(host)
    for _ in range(step):
        wbt._scale(-1)
    host.world.now_ns = NS_PER_S
    found = tuple(wbt.get_limit(opf, kswapd=False) for opf in (REQ_SYNC, 0, REQ_BACKGROUND))
    assert found == limits


def test_who_reads_or_was_held_back_changes_the_limits(make_host: Any) -> None:
    """A tenth of a second after a read ordinary writes have a quarter; a second after a writer's pause all have all."""
    host = make_host()
    wbt = _throttle(host)
    assert wbt.get_limit(0, kswapd=False) == 4
    host.world.now_ns = NS_PER_S
    assert wbt.get_limit(0, kswapd=False) == 8
    wbt.dirty_sleep_ns = lambda: NS_PER_S // 2
    assert wbt.get_limit(REQ_BACKGROUND, kswapd=False) == 16
    host.world.now_ns += NS_PER_S // 2
    assert wbt.get_limit(REQ_BACKGROUND, kswapd=False) == 4


# -- whose writes are swap's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "direct", "kswapd"),
    [
        ({"wbt_swap_requests": False}, ("ordinary", 8), ("swap", 16)),
        ({"wbt_swap_requests": True}, ("swap", 16), ("swap", 16)),
        ({"wbt_swap_requests": False, "wbt_swap_untracked": True}, (None, 8), ("swap", 16)),
    ],
    ids=["by task", "by request", "direct reclaim left alone"],
)
def test_swap_out_is_told_by_who_writes_or_by_the_request(
    make_host: Any, switches: dict[str, bool], direct: tuple[str | None, int], kswapd: tuple[str, int]
) -> None:
    """Before 6.11 only kswapd's swap-out has a class of its own and the whole depth."""
    host = make_host(switches=switches)
    wbt = _throttle(host)
    host.world.now_ns = NS_PER_S
    classes = {"ordinary": wbt.ordinary, "swap": wbt.swap, None: None}
    for is_kswapd, (name, limit) in ((False, direct), (True, kswapd)):
        assert wbt._class_of(REQ_SWAP, kswapd=is_kswapd) is classes[name]
        assert wbt.get_limit(REQ_SWAP, kswapd=is_kswapd) == limit


@pytest.mark.parametrize(("by_request", "ended_ms"), [(False, 7), (True, 1)])
def test_swap_out_of_direct_reclaim_waits_behind_file_writes_unless_told_by_request(
    make_host: Any, by_request: bool, ended_ms: int
) -> None:
    """Behind writes in line for the only tokens it goes when they have gone; as swap's it does not wait for them."""
    host = make_host(switches={"wbt_swap_requests": by_request})
    wbt = _throttle(host)
    for _ in range(4):
        wbt._scale(-1)
    host.device.delay_ns = lambda _rq: NS_PER_MS
    swapped_ns: list[int] = []

    async def file_write(task: Any) -> None:
        await _submit(host, task, 100 * task.number)

    async def body(task: Any) -> None:
        for _ in range(6):
            host.world.spawn("fwriter", file_write)
        await host.pause(task, 1)
        plug = host.queue.start_plug(task)
        await host.queue.submit_pages(
            task,
            plug,
            write=True,
            slot=7,
            pfns=[7],
            bios=[0],
            versions=[1],
            end_io=lambda *_: swapped_ns.append(host.world.now_ns),
            opf=REQ_SWAP,
        )
        plug.finish()
        await host.pause(task, NS_PER_S // 10)

    host.run(body)
    assert [ns // NS_PER_MS for ns in swapped_ns] == [ended_ms]


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_what_merges_takes_no_token_and_what_joins_gives_it_back(make_host: Any) -> None:
    """A request has one, however many bios it has; two that become one have one."""
    host = make_host(queue_depth=1)
    wbt = _throttle(host)
    host.device.held = True

    async def body(task: Any) -> None:
        await _submit(host, task, 1000)
        await _submit(host, task, 0, nr=4)
        assert wbt.ordinary.inflight == 2
        await _submit(host, task, 4, nr=4)
        assert wbt.ordinary.inflight == 2
        await _submit(host, task, 12, nr=4)
        assert wbt.ordinary.inflight == 3
        await _submit(host, task, 8, nr=4)
        assert wbt.ordinary.inflight == 2
        host.device.release()
        await host.pause(task, NS_PER_S)
        assert wbt.ordinary.inflight == 0

    host.run(body)


@pytest.mark.parametrize("write_cache", [False, True])
def test_a_volatile_cache_lets_all_writes_end_before_anybody_is_woken(make_host: Any, write_cache: bool) -> None:
    """Without one a waiter goes when its class is two below the normal limit."""
    host = make_host()
    wbt = _throttle(host, write_cache=write_cache)
    host.device.held = True
    gone_after: list[int] = []

    async def late(task: Any) -> None:
        await _submit(host, task, 9000)
        gone_after.append(8 - wbt.ordinary.inflight + 1)

    async def body(task: Any) -> None:
        await host.pause(task, NS_PER_S)
        for index in range(8):
            await _submit(host, task, 100 * index)
        host.world.spawn("late", late)
        await host.pause(task, 1)
        assert wbt.nr_slept == 1
        for _ in range(8):
            host.device.complete(host.device.in_flight[0])
            await host.pause(task, 1)
        host.device.release()

    host.run(body)
    assert gone_after == [8 if write_cache else 2]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), by_request=st.booleans(), untracked=st.booleans(), write_cache=st.booleans())
def test_tokens_go_out_as_two_lists_and_a_count_say(
    make_host: Any, data: st.DataObject, by_request: bool, untracked: bool, write_cache: bool
) -> None:
    """The dumbest model: per class who has a token and who waits, with the limits of sixteen requests written down."""
    host = make_host(switches={"wbt_swap_requests": by_request, "wbt_swap_untracked": untracked})
    wbt = _throttle(host, write_cache=write_cache)
    model = _Model(by_request=by_request, untracked=untracked, write_cache=write_cache)
    held: list[Request] = []

    async def writer(task: Any, opf: int) -> None:
        rq = Request(write=True, slot=task.number, pfns=[0], bios=[], versions=[])
        rq.rq_wait = await wbt.wbt_wait(task, opf, write=True)
        rq.number = task.number
        held.append(rq)

    async def body(task: Any) -> None:
        await host.pause(task, NS_PER_S)
        for _ in range(data.draw(st.integers(1, 60))):
            step = data.draw(st.sampled_from(["write", "write", "write", "end", "read", "pause"]))
            if step == "write":
                opf = data.draw(st.sampled_from([0, REQ_SYNC, REQ_BACKGROUND, REQ_SWAP, REQ_SWAP]))
                kswapd = opf == REQ_SWAP and data.draw(st.booleans())
                new = host.world.spawn("w", lambda t, opf=opf: writer(t, opf), flags=PF_KSWAPD if kswapd else 0)
                await host.pause(task, 1)
                model.write(new.number, opf, kswapd=kswapd, now_ns=host.world.now_ns - 1)
            elif step == "end" and held:
                rq = held.pop(data.draw(st.integers(0, len(held) - 1)))
                model.end(rq.number, now_ns=host.world.now_ns)
                wbt.done(rq)
                await host.pause(task, 1)
            elif step == "read":
                await wbt.wbt_wait(task, 0, write=False)
                model.read_ns = host.world.now_ns
            elif step == "pause":
                # too short for a window to end
                await host.pause(task, NS_PER_MS)
            assert {rq.number for rq in held} == model.holders()
            assert [rqw.inflight for rqw in (wbt.ordinary, wbt.swap)] == [len(model.out[c]) for c in (0, 1)]
        while held:
            rq = held.pop()
            model.end(rq.number, now_ns=host.world.now_ns)
            wbt.done(rq)
            await host.pause(task, 1)
        assert not wbt.ordinary.wanted
        assert not wbt.swap.wanted

    host.run(body)


class _Model:
    """Two classes of writes with at most 16, 8 or 4 out at once."""

    def __init__(self, *, by_request: bool, untracked: bool, write_cache: bool) -> None:
        self.by_request = by_request
        self.untracked = untracked
        self.write_cache = write_cache
        self.read_ns = -NS_PER_S
        self.free: set[int] = set()
        self.out: list[list[int]] = [[], []]
        self.waiting: list[list[tuple[int, int]]] = [[], []]

    def holders(self) -> set[int]:
        return {*self.free, *self.out[0], *self.out[1]}

    def limit(self, opf: int, now_ns: int, *, kswapd: bool) -> int:
        if opf == REQ_SYNC or kswapd or (self.by_request and opf == REQ_SWAP):
            return 16
        return 4 if opf == REQ_BACKGROUND or now_ns - self.read_ns < NS_PER_S // 10 else 8

    def write(self, number: int, opf: int, *, kswapd: bool, now_ns: int) -> None:
        if self.untracked and opf == REQ_SWAP and not kswapd:
            self.free.add(number)
            return
        cls = int(opf == REQ_SWAP and (self.by_request or kswapd))
        if not self.waiting[cls] and len(self.out[cls]) < self.limit(opf, now_ns, kswapd=kswapd):
            self.out[cls].append(number)
        else:
            self.waiting[cls].append((number, opf))

    def end(self, number: int, *, now_ns: int) -> None:
        if number in self.free:
            self.free.remove(number)
            return
        cls = int(number in self.out[1])
        self.out[cls].remove(number)
        left = len(self.out[cls])
        if left and (self.write_cache or left > 6):
            return
        while self.waiting[cls] and len(self.out[cls]) < self.limit(self.waiting[cls][0][1], now_ns, kswapd=False):
            self.out[cls].append(self.waiting[cls].pop(0)[0])


# -- windows ----------------------------------------------------------------------------------------------------------


def _steps(make_host: Any, seconds: float, *, reads: bool, writes: bool, took_ns: int) -> tuple[list[int], Wbt]:
    """Read and write a page every ten milliseconds; return the depths that were seen, in their order."""
    host = make_host()
    wbt = _throttle(host)
    host.device.delay_ns = lambda _rq: took_ns
    depths = [wbt.max_depth]

    async def body(task: Any) -> None:
        for index in range(int(seconds * 100)):
            if writes:
                await _submit(host, task, 1000 + 10 * index)
            if reads:
                await _submit(host, task, 10 * index, write=False)
            await host.pause(task, 10 * NS_PER_MS)
            if wbt.max_depth != depths[-1]:
                depths.append(wbt.max_depth)

    host.run(body)
    return depths, wbt


def test_slow_reads_halve_the_depth_window_by_window(make_host: Any) -> None:
    """To one request after four windows, each shorter than the last: 100 ms by the root of the step and one."""
    depths, wbt = _steps(make_host, 1.0, reads=True, writes=True, took_ns=3 * NS_PER_MS)
    assert depths == [16, 8, 4, 2, 1]
    assert wbt.cur_win_ns == 45_714_285


def test_writes_alone_get_a_bonus_that_a_slow_read_ends(make_host: Any) -> None:
    """Up to three quarters of the queue; fast reads do not end it."""
    for reads in (False, True):
        depths, wbt = _steps(make_host, 1.0, reads=reads, writes=True, took_ns=NS_PER_MS)
        assert depths == [16, 31, 61, 121, 192]
    wbt._scale(-1)
    assert wbt.max_depth == 16


def test_a_read_that_does_not_come_back_counts_as_slow(make_host: Any) -> None:
    """Nothing has ended in the window, and the read has been out for longer than it may take."""
    host = make_host()
    wbt = _throttle(host)

    async def body(task: Any) -> None:
        host.device.held = True
        await _submit(host, task, 0, write=False)
        await _submit(host, task, 100)
        await host.pause(task, NS_PER_S // 5)
        assert wbt.scale_step == 2
        host.device.release()

    host.run(body)


def test_without_anything_to_go_by_the_depth_comes_back_to_sixteen(make_host: Any) -> None:
    """A step in every fifth window, and then no more windows."""
    host = make_host()
    wbt = _throttle(host)

    async def body(task: Any) -> None:
        for _ in range(2):
            wbt._scale(-1)
        await _submit(host, task, 0)
        await host.pause(task, 5 * NS_PER_S)
        assert (wbt.scale_step, wbt.max_depth) == (0, 16)
        assert wbt.digest()[0] == 0

    host.run(body)


def test_reads_are_never_held_back(make_host: Any) -> None:
    """They take no token, however many are out."""
    host = make_host()
    wbt = _throttle(host)
    host.device.held = True

    async def body(task: Any) -> None:
        for index in range(64):
            await _submit(host, task, 10 * index, write=False)
        assert wbt.nr_slept == wbt.ordinary.inflight == 0
        host.device.release()

    host.run(body)


def test_the_digest_tells_who_waits_in_either_class(make_host: Any) -> None:
    """A write more that waits, of swap or not, or one of another kind, is another state."""
    host = make_host(switches={"wbt_swap_requests": True})
    wbt = _throttle(host)
    seen = [wbt.digest()]

    async def writer(task: Any, opf: int) -> None:
        rq = Request(write=True, slot=0, pfns=[0], bios=[], versions=[])
        rq.rq_wait = await wbt.wbt_wait(task, opf, write=True)
        wbt.done(rq)

    async def body(task: Any) -> None:
        for rqw in (wbt.ordinary, wbt.swap):
            rqw.inflight = 100
        seen.append(wbt.digest())
        for opf in (0, REQ_SWAP, REQ_SYNC, REQ_BACKGROUND):
            host.world.spawn("w", lambda t, opf=opf: writer(t, opf))
            await host.pause(task, 1)
            seen.append(wbt.digest())
        assert len(set(seen)) == 6
        for rqw in (wbt.ordinary, wbt.swap):
            rqw.inflight = 0
            rqw.wake(lambda _opf: 100)
        await host.pause(task, NS_PER_S)
        assert wbt.digest() == seen[0]

    host.run(body)
