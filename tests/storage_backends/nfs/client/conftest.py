"""A small host with a mount of NFS version 4.1, and a server whose answers a test sees and changes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from netvm.runtime.task import Task
from storage_backends.nfs.client.nfs4_mount import Nfs4Mount
from storage_backends.nfs.client.nfs4_proc import Nfs4CallOps
from storage_backends.nfs.client.nfs4_state import Nfs4Client
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.connection.procedures import COMPOUND, WRITE
from storage_backends.nfs.messages.compound import CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import StableHow, WriteArgs
from storage_backends.nfs.messages.nfs4 import Nfs4Op, NfsStat4, StatusRes
from storage_backends.wire import BLOCK_SIZE, Blocks

Answer = Callable[[CompoundArgs], CompoundRes | None]


@dataclass
class Served:
    """A compound that came to the server, and what was answered."""

    at_ns: int
    args: CompoundArgs
    res: CompoundRes

    @property
    def names(self) -> list[str]:
        """The operations asked for."""
        return [Nfs4Op(number).name for number, _ in self.args.operations]

    @property
    def last(self) -> tuple[str, str]:
        """The operation that was executed last, and the status of all."""
        number = self.res.results[-1][0]
        return Nfs4Op(number).name, NfsStat4(self.res.status).name

    @property
    def told(self) -> tuple[str, str]:
        """The operation the compound is for, or the one that failed, and the status of all."""
        if self.res.status:
            return self.last
        names = [name for name in self.names if name not in ("SEQUENCE", "PUTFH", "GETFH", "GETATTR")]
        return (*names[-1:], "OK")[0], "OK"

    def of(self, number: int) -> Any:
        """Return the arguments of an operation, or None if it was not asked for."""
        return dict(self.args.operations).get(number)

    @property
    def slot(self) -> tuple[int, int]:
        """The slot and its number."""
        sequence = self.of(Nfs4Op.SEQUENCE)
        return sequence.slotid, sequence.sequenceid


class Nfs4Host:
    """A host with a swap file over version 4.1."""

    def __init__(self, mounted: Any, *overrides: str, fixes: Sequence[str] = ()) -> None:
        self.host = mounted('storage.vers="4.1"', *overrides, fixes=fixes)
        self.world, self.backend, self.client = self.host.world, self.host.backend, self.host.client
        self.log: list[str] = self.host.log
        self.pause = self.host.pause
        assert isinstance(self.backend.state, Nfs4Client)
        assert isinstance(self.client.ops, Nfs4CallOps)
        assert isinstance(self.backend.server, Nfs4Mount)
        self.state: Nfs4Client = self.backend.state
        self.ops: Nfs4CallOps = self.client.ops
        self.mount: Nfs4Mount = self.backend.server
        self.served: list[Served] = []
        self.answers: list[Answer] = []
        """Asked in order before a compound is executed; the first that has an answer is through."""
        self.execute = self.backend.service._procedures[COMPOUND]
        self.server: Any = self.execute.__self__
        self.backend.service.serve(COMPOUND, self._compound)
        self.ended: list[Any] = []
        """Results of the calls that are over."""

    def run(self, script: Callable[[Task], Awaitable[None]]) -> "Nfs4Host":
        """Mount, run a script, and see that nothing is left over."""
        self.host.run(script)
        assert self.ops._slots == {}
        assert self.state.table.used == {}
        return self

    def _compound(self, args: CompoundArgs) -> CompoundRes:
        res = None
        for answer in self.answers:
            res = answer(args)
            if res is not None:
                self.answers.remove(answer)
                break
        if res is None:
            res = self.execute(args)
        self.served.append(Served(self.world.now_ns, args, res))
        return res

    def fail(self, number: Nfs4Op, status: NfsStat4, *, times: int = 1, then: Callable[[], Any] = lambda: None) -> None:
        """Let an operation fail as often; what stands before it is executed, and something may happen then."""

        def answer(args: CompoundArgs) -> CompoundRes | None:
            numbers = [found for found, _ in args.operations]
            if number not in numbers:
                return None
            before = self.execute(CompoundArgs(operations=args.operations[: numbers.index(number)]))
            then()
            return CompoundRes(status=status, results=(*before.results, (number, StatusRes(status=status))))

        self.answers += [answer] * times

    def when(self, number: Nfs4Op, happens: Callable[[], Any]) -> None:
        """Let something happen once, when an operation comes to the server and before it is executed."""

        def answer(args: CompoundArgs) -> CompoundRes | None:
            if number not in [found for found, _ in args.operations]:
                return None
            happens()
            return self.execute(args)

        self.answers.append(answer)

    def lose_reply(self, number: Nfs4Op) -> None:
        """Let the connection end when an operation has been executed, before the answer is out."""
        self.when(number, lambda: self.world.call_after(0, self.backend.reset_connection))

    def restart(self, *, for_ms: int = 0) -> None:
        """Kill the server, which is back after a time."""
        self.backend.restart_server(self.world.now_ns + for_ms * 1_000_000)

    def forget(self) -> None:
        """Let the server be another that knows no clients, sessions and open files, with the connection up."""
        self.backend.service.restart(self.world.now_ns)

    @property
    def fh(self) -> bytes:
        """The swap file's handle."""
        fh: bytes = self.backend.driver.fh
        return fh

    async def write(self, task: Task, page: int, version: int) -> RpcTask:
        """Begin a WRITE of a page to the swap file; its result comes to ``ended``."""
        args = WriteArgs(fh=self.fh, offset=page * BLOCK_SIZE, stable=StableHow.FILE_SYNC, data=Blocks.of((version,)))
        rpc = await self.client.call_async(
            task, WRITE, args, done=lambda rpc, _context: self.ended.append(rpc.reply.result)
        )
        assert rpc is not None
        return rpc

    async def until_ended(self, task: Task, nr: int, *, within_ms: int = 200_000) -> None:
        """Sleep until so many calls are over."""
        for _ in range(within_ms):
            if len(self.ended) >= nr:
                return
            await self.pause(task, 1)
        raise AssertionError((self.ended, self.client.digest()))

    def threads(self) -> list[Task]:
        """Return the state managers there are."""
        return [task for task in self.world.tasks.values() if task.comm == "10.0.2.2-manager"]

    def since(self, nr: int) -> list[str]:
        """Return the last operation of each compound from then on, GETATTR left out, as ``name status``."""
        return [f"{name} {status.removeprefix('NFS4ERR_')}" for name, status in (x.told for x in self.served[nr:])]


@pytest.fixture
def nfs4(mounted: Any) -> Callable[..., Nfs4Host]:
    """Return what boots a small host with a mount of version 4.1."""
    return lambda *overrides, fixes=(): Nfs4Host(mounted, *overrides, fixes=fixes)
