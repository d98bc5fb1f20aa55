"""Programs that use files: writers, readers, and those that only look.

``file-writer`` is the recorded program: it writes its file in chunks, in order or at random, through ``write`` or
through a shared mapping, and calls ``fsync`` at the end of a pass, after each chunk, or never. Its report has the time
of each write and, as the recorded one, the final fsync apart. ``file-reader`` first makes the file, syncs it and drops
it from the cache, then reads it.

``metadata-storm`` looks up paths and opens some of them: what it leaves behind is dentries and inodes.

Writers that name the same ``file`` share it, and its lock: one of them writes, the others wait. ``heap_mib`` is memory
of its own that a writer has touched before.

A program that is told of an I/O error stops, as a careful one does.
"""

from collections.abc import Iterator

from netvm.host.machine import Host
from netvm.mm.gfp import PF_LOCAL_THROTTLE
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.mmap import SharedMapping
from netvm.pagecache.readahead import ReadAhead
from netvm.pagecache.reclaim import invalidate_mapping_pages
from netvm.runtime.seeds import Seeds, Stream
from netvm.runtime.task import Task
from netvm.runtime.timer import TimerKind
from netvm.scenario.program import THINK, PassResult, Program, start_at
from netvm.scenario.schema import FileReader, FileWriter, MetadataStorm
from netvm.trace.latency import TouchRecorder
from netvm.units import MIB, PAGE_SIZE

__all__ = ["file_reader", "file_writer", "metadata_storm"]

PAGES_PER_MIB = MIB // PAGE_SIZE


async def file_writer(task: Task, host: Host, program: Program) -> None:
    """Write the file, pass after pass."""
    spec = program.spec
    assert isinstance(spec, FileWriter)
    await start_at(task, host, spec.start_ms)
    program.begun_ns = host.world.now_ns
    if spec.local_throttle:
        task.flags |= PF_LOCAL_THROTTLE
    name = spec.file or program.name
    mapping = _open(host, name)
    space = host.memory.map_anonymous(task, max(1, spec.heap_mib * PAGES_PER_MIB), oom_score_adj=spec.oom_score_adj)
    random = Seeds(spec.seed).stream(program.name)
    try:
        if spec.heap_mib and not await host.memory.touch_run(task, space, 0, space.nr_pages, write=True):
            program.bus_error = not task.killed
            return
        for number in range(spec.files):
            mapping = _open(host, f"{name}.{number}") if number else mapping
            for index in range(spec.passes):
                if not await _write_pass(task, host, program, mapping, number * spec.passes + index, random):
                    return
        program.finished = True
    finally:
        program.end(task, host, space)


def _open(host: Host, name: str) -> Mapping:
    """Open the file of that name, made if it is not there."""
    assert host.files.fs is not None
    for mapping in host.files.cache.mappings.values():
        if mapping.name == name:
            return mapping
    return host.files.cache.create(host.files.fs, name)


def _chunks(spec: FileWriter | FileReader, random: Stream) -> Iterator[tuple[int, int]]:
    """Generate the chunks of a pass as page index and pages."""
    nr_pages = spec.mib * PAGES_PER_MIB
    size = spec.chunk_kib * 1024 // PAGE_SIZE
    nr_chunks = -(-nr_pages // size)
    for number in range(nr_chunks):
        chunk = number if spec.pattern == "seq" else random.below(nr_chunks)
        yield chunk * size, min(size, nr_pages - chunk * size)


async def _write_pass(task: Task, host: Host, program: Program, mapping: Mapping, index: int, random: Stream) -> bool:
    """Write the file once; False if the program was killed or told of an error."""
    spec = program.spec
    assert isinstance(spec, FileWriter)
    result = PassResult(index, TouchRecorder())
    program.passes.append(result)
    cache = host.files.cache
    shared = SharedMapping(cache, host.files.reader, mapping) if spec.mmap else None
    seen = mapping.wb_err
    mapping.reserve(spec.mib * PAGES_PER_MIB)
    for page, nr_pages in _chunks(spec, random):
        begun_ns = task.time_ns
        if shared is not None:
            error = await shared.touch(task, page, nr_pages, write=True)
        else:
            error = await cache.generic_file_write_iter(task, mapping, page, nr_pages)
        if not error and spec.fsync == "each":
            error, seen = await cache.fsync(task, mapping, seen)
        if error:
            program.io_errno = 0 if task.killed else error
            return False
        result.touches.add(1, task.time_ns - begun_ns)
        if spec.think_ns:
            await host.world.sleep_ns(task, spec.think_ns, THINK, kind=TimerKind.PROGRESS)
    if spec.fsync == "end":
        error, _seen = await cache.fsync(task, mapping, seen)
        program.io_errno = 0 if task.killed else error
        return not error
    return not task.killed


async def file_reader(task: Task, host: Host, program: Program) -> None:
    """Make the file, drop it, and read it, pass after pass."""
    spec = program.spec
    assert isinstance(spec, FileReader)
    await start_at(task, host, spec.start_ms)
    program.begun_ns = host.world.now_ns
    mapping = _open(host, program.name)
    cache = host.files.cache
    space = host.memory.map_anonymous(task, 1, oom_score_adj=spec.oom_score_adj)
    random = Seeds(spec.seed).stream(program.name)
    try:
        error = await cache.generic_file_write_iter(task, mapping, 0, spec.mib * PAGES_PER_MIB)
        error = error or (await cache.fsync(task, mapping))[0]
        invalidate_mapping_pages(cache, mapping)
        for index in range(spec.passes):
            if error:
                break
            error = await _read_pass(task, host, program, mapping, index, random)
        program.io_errno = 0 if task.killed else error
        program.finished = not error
    finally:
        program.end(task, host, space)


async def _read_pass(task: Task, host: Host, program: Program, mapping: Mapping, index: int, random: Stream) -> int:
    """Read the file once; return 0 or a negative errno."""
    spec = program.spec
    assert isinstance(spec, FileReader)
    result = PassResult(index, TouchRecorder())
    program.passes.append(result)
    ra = ReadAhead()
    for page, nr_pages in _chunks(spec, random):
        begun_ns = task.time_ns
        error = await host.files.reader.filemap_read(task, mapping, ra, page, nr_pages)
        if error:
            return error
        result.touches.add(1, task.time_ns - begun_ns)
        if spec.think_ns:
            await host.world.sleep_ns(task, spec.think_ns, THINK, kind=TimerKind.PROGRESS)
    return 0


async def metadata_storm(task: Task, host: Host, program: Program) -> None:
    """Look up every path, pass after pass; some are held open until the end."""
    spec = program.spec
    assert isinstance(spec, MetadataStorm)
    await start_at(task, host, spec.start_ms)
    program.begun_ns = host.world.now_ns
    dcache = host.files.dcache
    space = host.memory.map_anonymous(task, 1, oom_score_adj=spec.oom_score_adj)
    held: list[int] = []
    try:
        for index in range(spec.passes):
            result = PassResult(index, TouchRecorder())
            program.passes.append(result)
            for path in range(spec.files):
                begun_ns = task.time_ns
                pin = bool(spec.pinned_one_in) and not index and not path % spec.pinned_one_in
                if not await dcache.lookup(task, path, pin=pin) or task.killed:
                    return
                if pin:
                    held.append(path)
                if task.cpus is not None:
                    await task.cpus.cond_resched(task)
                result.touches.add(1, task.time_ns - begun_ns)
                if spec.think_ns:
                    await host.world.sleep_ns(task, spec.think_ns, THINK, kind=TimerKind.PROGRESS)
        program.finished = True
    finally:
        if not host.world.stopped:
            for path in held:
                dcache.unpin(path)
        program.end(task, host, space)
