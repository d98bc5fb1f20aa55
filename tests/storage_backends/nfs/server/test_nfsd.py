"""A server among the host's own threads."""

import re

import pytest

from netvm.scenario.load import scenario_from
from netvm.scenario.run import run_scenario
from netvm.units import MIB, NS_PER_S, PAGE_SIZE
from storage_backends.nfs.connection import procedures as p
from storage_backends.nfs.messages import data, files
from storage_backends.nfs.messages.attributes import Sattr3
from storage_backends.nfs.messages.nfs3 import FhArgs, NfsStat3
from storage_backends.nfs.server.nfsd import max_blksize
from storage_backends.wire import BLOCK_SIZE, Blocks, Octets

LOCAL = ("storage.place=local", "nic.kind=loopback")


def loopback(**tables):
    """Return a writer of 4 MiB on a mount of its own host's export."""
    return scenario_from(
        {
            "machine": {"ram_mib": 32, "costs": {"scale": 0.0}},
            "nic": {"kind": "loopback"},
            "storage": {
                "kind": "nfs",
                "role": "fs",
                "place": "local",
                "size_mib": 16,
                "disk": {"bandwidth_bytes_per_s": 20_000_000},
            },
            "workload": [{"kind": "file-writer", "mib": 4, "chunk_kib": 64}],
            **tables,
        },
        origin="test",
    )


@pytest.mark.parametrize(
    ("mib", "kib"), [(16, 8), (96, 16), (128, 32), (1024, 256), (4096, 1024), (1 << 16, 1024), (1, 8)]
)
def test_the_largest_call_is_a_part_of_memory(mib: int, kib: int) -> None:
    """1/4096 of memory, as a power of two, within 8 KiB and 1 MiB."""
    assert max_blksize(mib * MIB // PAGE_SIZE) == kib * 1024


def test_a_file_is_written_twice_through_one_memory() -> None:
    """The client's pages and the server's are both dirtied and written, and what the disk holds is what was written."""
    outcome = run_scenario(loopback(), name="loopback")
    assert outcome.verdict == "COMPLETED"
    assert outcome.audit == []
    assert outcome.vmstat["nr_dirtied"] >= 2 * 1024
    assert outcome.vmstat["nr_written"] >= 2 * 1024


def test_a_killed_server_loses_nothing_of_a_living_host(mounted) -> None:
    """Its verifier changes and its connection ends; the client connects again and finds its data."""
    host = mounted(*LOCAL)

    async def script(task) -> None:
        host.take_completions()
        before = host.backend.service.boot_verifier
        await host.swap_rw(task, 0, [7, 8])
        await host.until_ended(task, 1)
        host.backend.restart_server(host.world.now_ns + 50_000_000)
        assert host.backend.service.boot_verifier != before
        await host.pause(task, 10)
        read = await host.swap_rw(task, 0, None, nr_pages=2)
        assert await host.until_ended(task, 2) == [0, 0]
        assert read.versions == [7, 8]
        assert host.xprt.nr_connects >= 2

    host.run(script)
    assert host.backend.stored()[:2].tolist() == [7, 8]


def test_threads_own_pages_before_they_read(mounted) -> None:
    """Each has the pages of the largest call and two more; a thread that gets none reads nothing."""
    host = mounted(*LOCAL, "storage.nfsd_threads=3")

    async def script(task) -> None:
        await host.pause(task, 1)
        local = host.backend.local
        assert local.nr_arg_pages == (8192 + 3 * PAGE_SIZE) // PAGE_SIZE
        assert host.host.ledger.counts[host.host.ledger.owner("nfsd")] == 3 * local.nr_arg_pages

    host.run(script)


def test_answers_are_those_of_an_export(mounted) -> None:
    """What cannot be executed is answered with its status; UNSTABLE data is dirt, and FILE_SYNC data is on disk."""
    host = mounted(*LOCAL)

    async def script(task) -> None:
        local = host.backend.local
        made = await host.client.call_sync(
            task, p.CREATE, files.CreateArgs(dir_fh=host.backend.server.root, name="f", attributes=Sattr3(size_bytes=0))
        )
        fh = made.result.fh
        store = local.service.files[fh].store

        async def write(payload, *, stable=0, offset=0) -> data.WriteRes:
            args = data.WriteArgs(fh=fh, offset=offset, stable=stable, data=payload)
            return (await host.client.call_sync(task, p.WRITE, args)).result

        assert (await write(Blocks.of((1, 2)))).committed == 0
        assert store.mapping.nr_dirty == 2
        assert (await write(Blocks.of((3,)), stable=2, offset=2 * BLOCK_SIZE)).committed == 2
        assert store.mapping.nr_dirty == 0
        assert store.mapping.stored[:3].tolist() == [1, 2, 3]
        assert (await write(Octets(b"abc"))).status == NfsStat3.NFS3ERR_INVAL
        local.service.is_full = True
        assert (await write(Blocks.of((4,)), offset=3 * BLOCK_SIZE)).status == NfsStat3.NFS3ERR_NOSPC
        assert (await write(Blocks.of((5,)))).status == NfsStat3.NFS3_OK
        cut = files.SetattrArgs(fh=fh, attributes=Sattr3(size_bytes=0))
        assert (await host.client.call_sync(task, p.SETATTR, cut)).result.status == NfsStat3.NFS3ERR_NOTSUPP
        found = (await host.client.call_sync(task, p.READ, data.ReadArgs(fh=fh, offset=0, count=1 << 20))).result
        assert found.data == Blocks.of((5, 2))
        tail = (
            await host.client.call_sync(task, p.READ, data.ReadArgs(fh=fh, offset=2 * BLOCK_SIZE, count=1 << 20))
        ).result
        assert (tail.data, tail.eof) == (Blocks.of((3,)), True)
        assert (await host.client.call_sync(task, p.GETATTR, FhArgs(fh=fh))).result.attributes.size_bytes == 3 << 12

    host.run(script)


def test_a_client_that_does_not_read_loses_its_connection(mounted) -> None:
    """An answer that finds no room for 30 s is the connection's end; the client connects again and asks once more."""
    host = mounted(*LOCAL)

    async def script(task) -> None:
        host.take_completions()
        await host.swap_rw(task, 0, [7] * 64)
        await host.until_ended(task, 1)
        # it goes to sleep in the middle of its reading: nobody takes what arrives
        host.xprt.sock.data_ready = None
        begun_ns = host.world.now_ns
        reads = [await host.swap_rw(task, 0, None, nr_pages=64) for _ in range(64)]
        await host.pause(task, 29_900)
        assert not host.log
        assert [t for t in host.backend.local.threads if "sk_stream_wait_memory" in t.stack()]
        await host.until_ended(task, 1 + len(reads), within_ms=60_000)
        assert all(read.versions == [7] * 64 for read in reads)
        assert (host.world.now_ns - begun_ns) // NS_PER_S == 30
        [line] = host.log
        assert re.fullmatch(r"rpc-srv/tcp: nfsd: sent \d+ when sending 8\d\d\d bytes - shutting down socket", line)
        assert host.xprt.nr_connects == 2

    host.run(script)
