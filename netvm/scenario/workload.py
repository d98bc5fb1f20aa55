"""What runs on the host: programs that use memory.

``anon-hog`` is the recorded program: it maps anonymous memory; pass 0 writes one word a page in order; later passes
read and verify, and with ``write`` rewrite, pages by ``pattern`` (``seq``; ``rand`` uniform; ``hot``: four touches of
five go to the first fifth; ``zipf``: page k as often as 1/k). ``anon-pulse`` maps and touches memory, holds it,
unmaps, idles, again and again. Programs that use files are in :mod:`netvm.scenario.file_workload`.

With ``image`` a hog has a stack and data of its own, eleven pages as the recorded program has: those that swap over
NFS, whose trace names the slots, wrote beside the memory the program maps. Three of them are used by every touch. One
is written (in a pass its slot is written up to six times), so that reclaim has to write it before it can take it, and
it is found in the swap cache. The two others are read alone: once reclaim has come round to them twice before the
program has run, they are dropped as they are, and read again from behind all that is being written (their slots are
read two to five times in a pass, and never written again). Five more are used by the report of a pass, in the order of
the reads between two passes.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from netvm.host.machine import Host
from netvm.mm.address_space import AddressSpace
from netvm.runtime.seeds import Seeds, Stream
from netvm.runtime.task import Task
from netvm.runtime.timer import TimerKind
from netvm.scenario.file_workload import file_reader, file_writer, metadata_storm
from netvm.scenario.program import THINK, PassResult, Program, start_at
from netvm.scenario.schema import AnonHog, AnonPulse, FileReader, FileWriter, MetadataStorm, Workload
from netvm.trace.latency import TouchRecorder
from netvm.units import KIB, MIB, NS_PER_MS, PAGE_SIZE

__all__ = ["Program", "start_workloads"]

PAGES_PER_MIB = MIB // PAGE_SIZE
IMAGE_PAGES: Final = 11
IMAGE_HOT: Final = ((0, False), (1, True), (3, False))
"""Pages of the image that each touch uses, in its order, and whether it writes them."""
IMAGE_REPORT: Final = (6, 9, 4, 2, 8)
"""Pages that the report of a pass is made with."""
M_MMAP_THRESHOLD_PAGES = 128 * KIB // PAGE_SIZE
"""What malloc takes from the kernel by mmap: such a piece at least."""


def start_workloads(host: Host, workloads: list[Workload], ended: Callable[[], None]) -> list[Program]:
    """Start every process of every workload; ``ended`` is called when the last one is gone."""
    programs = []
    for spec in workloads:
        nr = 1 if isinstance(spec, AnonPulse | MetadataStorm) else spec.processes
        for i in range(nr):
            name = spec.name if nr == 1 else f"{spec.name}{i}"
            programs.append(Program(spec, name))
            if isinstance(spec, AnonHog):
                leader = programs[-1]
                programs += [Program(spec, f"{name}.{j}", j, leader) for j in range(1, spec.threads)]
    left = len(programs)

    def one_ended(_task: Task) -> None:
        nonlocal left
        left -= 1
        if not left:
            ended()

    for program in programs:
        program.task = host.world.spawn(program.name, _BODIES[type(program.spec)], host, program, cpus=host.cpus)
        program.task.on_exit.append(one_ended)
        if program.spec.memory_group:
            assert host.pages.memcg is not None
            host.pages.memcg.attach(program.task, program.spec.memory_group)
    return programs


async def _anon_hog(task: Task, host: Host, program: Program) -> None:
    spec = program.spec
    assert isinstance(spec, AnonHog)
    await start_at(task, host, spec.start_ms)
    program.begun_ns = host.world.now_ns
    space = _memory_of(task, host, program)
    random = Seeds(spec.seed).stream(program.name)
    try:
        program.finished = await _main(task, host, program, random)
        program.bus_error = not program.finished and not task.killed
    finally:
        program.end(task, host, space)


def _memory_of(task: Task, host: Host, program: Program) -> AddressSpace:
    """Map a process's memory, or join it: whichever of its threads comes first maps it."""
    spec = program.spec
    assert isinstance(spec, AnonHog)
    leader = program.leader or program
    if leader.space is None:
        leader.space = host.memory.map_anonymous(
            task, spec.mib * PAGES_PER_MIB, oom_score_adj=spec.oom_score_adj, nr_threads=spec.threads
        )
    else:
        host.memory.clone_vm(task, leader.space)
    program.space = leader.space
    return leader.space


async def _main(task: Task, host: Host, program: Program, random: Stream) -> bool:
    """Go over the memory pass after pass, and report each; False if the program must die."""
    spec, space = program.spec, program.space
    assert isinstance(spec, AnonHog)
    assert space is not None
    if spec.image and not await _exec(task, host, space):
        return False
    for index in range(spec.passes):
        if not await _pass(task, host, program, index, random):
            return False
        if space.image is not None and not await _report(task, host, space.image):
            return False
    return True


async def _exec(task: Task, host: Host, space: AddressSpace) -> bool:
    """Give a program its stack and data, and use all of it once; False if it must die."""
    if space.image is not None:
        return True
    image = host.memory.map_image(space, IMAGE_PAGES, IMAGE_HOT)
    alive = await host.memory.touch_run(task, image, 0, IMAGE_PAGES, write=True)
    # MODEL: a program's times begin with its main(), so what exec costs is not counted
    task.charge_ns = 0
    return alive


async def _report(task: Task, host: Host, image: AddressSpace) -> bool:
    """Print what a pass came to, which uses pages that the passes do not; False if the program must die."""
    for vpn in IMAGE_REPORT:
        if not await host.memory.touch_run(task, image, vpn, 1, write=True):
            return False
    return True


async def _pass(task: Task, host: Host, program: Program, index: int, random: Stream) -> bool:
    """Go over the memory once; False if the program must die."""
    spec, space = program.spec, program.space
    assert isinstance(spec, AnonHog)
    assert space is not None
    result = PassResult(index, TouchRecorder())
    program.passes.append(result)
    minor, major = host.vmstat.pgfault, host.vmstat.pgmajfault
    write = spec.write or not index
    nr_pages = (spec.touch_kib * KIB // PAGE_SIZE or space.nr_pages) // spec.threads
    first = program.thread * nr_pages
    alive = True
    space.touches[task] = result.touches
    if space.mmap_lock is not None and (spec.pattern == "seq" or not index):
        alive = await _touch_pieces(
            task, host, space, first, nr_pages, spec.think_ns, write=write, read_first=bool(index)
        )
    elif not spec.think_ns and (spec.pattern == "seq" or not index):
        alive = await host.memory.touch_run(task, space, first, nr_pages, write=write, read_first=bool(index))
    else:
        for vpn in _order(spec, nr_pages, random, sequential=not index):
            alive = await host.memory.touch_run(task, space, first + vpn, 1, write=write, read_first=bool(index))
            if not alive:
                break
            if spec.think_ns:
                await host.world.sleep_ns(task, spec.think_ns, THINK, kind=TimerKind.PROGRESS)
    # MODEL: faults are counted for the whole host; with several programs a pass shows those of all of them
    result.majflt = host.vmstat.pgmajfault - major
    result.minflt = host.vmstat.pgfault - minor - result.majflt
    return alive and not task.killed


async def _touch_pieces(
    task: Task, host: Host, space: AddressSpace, first: int, nr_pages: int, think_ns: int, **how: bool
) -> bool:
    """Touch a thread's part, with a change of the mapping before each piece; False if the program must die."""
    assert space.mmap_lock is not None
    for vpn in range(first, first + nr_pages, M_MMAP_THRESHOLD_PAGES):
        await space.mmap_lock.down_write(task)
        space.mmap_lock.up_write(task)
        end = min(vpn + M_MMAP_THRESHOLD_PAGES, first + nr_pages)
        step = 1 if think_ns else end - vpn
        for page in range(vpn, end, step):
            if not await host.memory.touch_run(task, space, page, step, **how):
                return False
            if think_ns:
                await host.world.sleep_ns(task, think_ns, THINK, kind=TimerKind.PROGRESS)
    return True


def _order(spec: AnonHog, nr_pages: int, random: Stream, *, sequential: bool) -> Iterator[int]:
    if sequential or spec.pattern == "seq":
        yield from range(nr_pages)
        return
    for _ in range(nr_pages):
        if spec.pattern == "rand":
            yield random.below(nr_pages)
        elif spec.pattern == "hot":
            hot = max(1, nr_pages // 5)
            yield random.below(hot) if random.below(5) < 4 else hot + random.below(max(1, nr_pages - hot))
        else:
            # the inverse of the distribution function of 1/k, k = 1..n, in the continuum
            yield min(nr_pages - 1, int(nr_pages ** random.uniform()) - 1)


async def _anon_pulse(task: Task, host: Host, program: Program) -> None:
    spec = program.spec
    assert isinstance(spec, AnonPulse)
    await start_at(task, host, spec.start_ms)
    program.begun_ns = host.world.now_ns
    for index in range(spec.repeats):
        space = program.space = host.memory.map_anonymous(
            task, spec.mib * PAGES_PER_MIB, oom_score_adj=spec.oom_score_adj
        )
        result = PassResult(index, TouchRecorder())
        program.passes.append(result)
        space.touches[task] = result.touches
        try:
            if not await host.memory.touch_run(task, space, 0, space.nr_pages, write=True):
                program.bus_error = not task.killed
                return
            await host.world.sleep_ns(task, spec.hold_ms * NS_PER_MS, THINK, kind=TimerKind.PROGRESS)
        finally:
            program.end(task, host, space)
        if task.killed:
            return
        await host.world.sleep_ns(task, spec.idle_ms * NS_PER_MS, THINK, kind=TimerKind.PROGRESS)
    program.finished = True


_BODIES: dict[type[Workload], Callable[[Task, Host, Program], Awaitable[None]]] = {
    AnonHog: _anon_hog,
    AnonPulse: _anon_pulse,
    FileReader: file_reader,
    FileWriter: file_writer,
    MetadataStorm: metadata_storm,
}
