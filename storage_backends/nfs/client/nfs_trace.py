"""Tracepoints of the NFS client and of RPC: what a mount tells a recorder.

Mirrors fs/nfs/nfstrace.h and include/trace/events/sunrpc.h of 6.1. A call can be followed by its task's number from
``rpc_request`` to ``rpc_stats_latency``, whose three times are the kernel's: in the backlog and the queues until its
first byte went out, from there to the reply, and all of it; and by its xid on the wire, from ``xprt_transmit`` to
``xprt_lookup_rqst``.
"""

from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from netvm.runtime.task import Task
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of
from storage_backends.nfs.connection.procedures import COMMIT, READ, WRITE
from storage_backends.nfs.messages.data import CommitArgs, ReadArgs, StableHow, WriteArgs
from storage_backends.wire import size_of

if TYPE_CHECKING:
    from storage_backends.nfs.client.rpc_task import RpcTask

__all__ = ["NfsTrace"]

_INITIATE: Final = {
    "READ": number_of("nfs_initiate_read"),
    "WRITE": number_of("nfs_initiate_write"),
    "COMMIT": number_of("nfs_initiate_commit"),
}
_DONE: Final = {
    "READ": number_of("nfs_readpage_done"),
    "WRITE": number_of("nfs_writeback_done"),
    "COMMIT": number_of("nfs_commit_done"),
}
_REQUEST: Final = number_of("rpc_request")
_SLEEP: Final = number_of("rpc_task_sleep")
_WAKEUP: Final = number_of("rpc_task_wakeup")
_TRANSMIT: Final = number_of("xprt_transmit")
_LOOKUP: Final = number_of("xprt_lookup_rqst")
_NOSPACE: Final = number_of("rpc_socket_nospace")
_LATENCY: Final = number_of("rpc_stats_latency")
_MAJOR: Final = 0
_MINOR: Final = 0x10
"""An anonymous device, as every mount of NFS has."""
_CLIENT: Final = 1
assert {COMMIT.name, READ.name, WRITE.name} == set(_INITIATE)


class NfsTrace:
    """Writes a mount's events to the recorder of its host."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.world = recorder.world
        self._nr_tasks = 0
        self._numbers: dict[int, int] = {}
        """By the id of an RPC task that is not over: its number."""
        self._files: dict[bytes, int] = {}
        """A file's number by its handle."""
        self._times: dict[int, list[int]] = {}
        """By number: when it began, was first sent, was answered; nanoseconds."""

    # -- calls ----------------------------------------------------------------------------------------------------

    def request(self, task: Task, rpc: "RpcTask") -> None:
        """A call was made (rpc_new_task, nfs_initiate_pgio)."""
        recorder = self.recorder
        self._nr_tasks += 1
        number = self._numbers[id(rpc)] = self._nr_tasks
        self._times[number] = [self.world.now_ns, -1, -1]
        event = _INITIATE.get(rpc.name)
        if event is not None:
            extra = (recorder.name(StableHow(rpc.args.stable).name),) if isinstance(rpc.args, WriteArgs) else ()
            recorder.emit(event, task, *self._place(rpc.args), _count(rpc.args), *extra)
        mode = "" if rpc.waiter is not None else "a"
        words = (recorder.name("nfs"), _version(rpc), recorder.name(rpc.name), recorder.name(mode))
        recorder.emit(_REQUEST, task, number, _CLIENT, *words)

    def done(self, task: Task, rpc: "RpcTask") -> None:
        """A call is over (rpc_exit_task: rpc_count_iostats, and the callbacks of NFS)."""
        number = self._numbers.pop(id(rpc), None)
        if number is None:
            return
        recorder = self.recorder
        begun_ns, sent_ns, replied_ns = self._times.pop(number)
        now_ns = self.world.now_ns
        sent_ns = now_ns if sent_ns < 0 else sent_ns
        replied_ns = now_ns if replied_ns < 0 else replied_ns
        spent_us = ((sent_ns - begun_ns) // 1000, (replied_ns - sent_ns) // 1000, (now_ns - begun_ns) // 1000)
        words = (recorder.name("nfs"), _version(rpc), recorder.name(rpc.name))
        recorder.emit(_LATENCY, task, number, _CLIENT, rpc.xid, *words, *spent_us)
        event = _DONE.get(rpc.name)
        if event is None:
            return
        result: Any = None if rpc.reply is None else rpc.reply.result
        error = -5 if result is None else -int(result.status)
        count = _count(rpc.args)
        verifier = getattr(result, "verifier", None)
        told: tuple[int, ...] = ()
        if rpc.name != "COMMIT":
            told = (count, 0 if error else count)
        if rpc.name != "READ":
            how = getattr(result, "committed", None)
            told += (recorder.name(StableHow(StableHow.FILE_SYNC if how is None else how).name),)
            told += (recorder.name(verifier.hex() if verifier else "0" * 16),)
        recorder.emit(event, task, error or (count if rpc.name != "COMMIT" else 0), *self._place(rpc.args), *told)

    # -- the transport --------------------------------------------------------------------------------------------

    def transmit(self, task: Task, rpc: "RpcTask", status: int) -> None:
        """A call, or a part of it, went to the socket (xprt_request_transmit)."""
        number = self._numbers.get(id(rpc), 0)
        times = self._times.get(number)
        if times is not None and times[1] < 0 and not status:
            times[1] = self.world.now_ns
        self.recorder.emit(_TRANSMIT, task, number, _CLIENT, rpc.xid, 0, status)

    def nospace(self, task: Task, rpc: "RpcTask", total_bytes: int, left_bytes: int) -> None:
        """The send buffer is full (xs_nospace)."""
        self.recorder.emit(_NOSPACE, task, self._numbers.get(id(rpc), 0), _CLIENT, total_bytes, left_bytes)

    def lookup_rqst(self, task: Task, rpc: "RpcTask") -> None:
        """A reply has found its call (xprt_lookup_rqst)."""
        times = self._times.get(self._numbers.get(id(rpc), 0))
        if times is not None:
            times[2] = self.world.now_ns
        recorder = self.recorder
        peer = recorder.name(rpc.client.server_name), recorder.name("2049")
        recorder.emit(_LOOKUP, task, *peer, rpc.xid, 0)

    def sleep(self, rpc: "RpcTask", queue: str) -> None:
        """A call goes to sleep on a queue (__rpc_sleep_on_priority)."""
        self._queued(_SLEEP, rpc, queue, 0)

    def wakeup(self, rpc: "RpcTask", queue: str, status: int) -> None:
        """A call is woken from a queue (__rpc_do_wake_up_task)."""
        self._queued(_WAKEUP, rpc, queue, status)

    def _queued(self, event: int, rpc: "RpcTask", queue: str, status: int) -> None:
        recorder = self.recorder
        number = self._numbers.get(id(rpc), 0)
        flags = recorder.name("ASYNC" if rpc.waiter is None else "0x0")
        state = recorder.name("QUEUED|ACTIVE" if event == _SLEEP else "ACTIVE")
        name = recorder.name(queue.partition(":")[0].replace(" ", "_"))
        recorder.emit(event, self.world.current, number, _CLIENT, flags, state, status, 0, name)

    def _place(self, args: object) -> tuple[int, int, int, int, int]:
        """Return device, file, hash of its handle, and offset."""
        assert isinstance(args, ReadArgs | WriteArgs | CommitArgs)
        number = self._files.setdefault(args.fh, len(self._files) + 1)
        return _MAJOR, _MINOR, number, crc32(args.fh), args.offset


def _count(args: object) -> int:
    """Return the bytes a call is about."""
    if isinstance(args, WriteArgs):
        return size_of(args.data)
    assert isinstance(args, ReadArgs | CommitArgs)
    return args.count


def _version(rpc: "RpcTask") -> int:
    return 3 if rpc.client.ops is None else 4
