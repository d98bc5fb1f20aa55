"""The procedures on an export."""

from typing import Any

import pytest

from netvm.runtime.seeds import Seeds
from netvm.runtime.world import World
from storage_backends.export.disk import DiskModel
from storage_backends.export.store import BlockStore
from storage_backends.nfs.connection import procedures as p
from storage_backends.nfs.connection.server import Request
from storage_backends.nfs.messages import data, files, mount
from storage_backends.nfs.messages.attributes import Sattr3
from storage_backends.nfs.messages.compound import CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs3 import FhArgs, NfsStat3
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, Nfs4Op, VoidArgs
from storage_backends.nfs.messages.operations import Commit4Args, Read4Args, Write4Args
from storage_backends.nfs.server.service import EXPORT_PATH, ROOT_FH, NfsService
from storage_backends.wire import BLOCK_SIZE, Blocks, Octets


@pytest.fixture
def service() -> NfsService:
    """Return an export of 16 pages with one file."""
    made = NfsService(World(seeds=Seeds(1)), DiskModel(), capacity_bytes=16 * BLOCK_SIZE)
    made.add_file("f", 0, BlockStore(16 * BLOCK_SIZE, write_cache=True))
    return made


def call(service: NfsService, procedure: p.Procedure, args: object) -> Any:
    """Execute one call."""
    return service.execute(Request(1, procedure, args, 0))


def test_a_path_leads_to_a_file(service: NfsService) -> None:
    """MOUNT gives the root, LOOKUP the file, GETATTR what it is; what is not there is said to be so."""
    assert call(service, p.MNT, mount.MountArgs(dirpath=EXPORT_PATH)).fh == ROOT_FH
    assert call(service, p.MNT, mount.MountArgs(dirpath="/")).status == mount.MountStat3.MNT3ERR_NOENT
    found = call(service, p.LOOKUP, files.LookupArgs(dir_fh=ROOT_FH, name="f"))
    assert call(service, p.GETATTR, FhArgs(fh=found.fh)).attributes.size_bytes == 0
    assert call(service, p.LOOKUP, files.LookupArgs(dir_fh=ROOT_FH, name="g")).status == NfsStat3.NFS3ERR_NOENT
    assert call(service, p.LOOKUP, files.LookupArgs(dir_fh=found.fh, name="g")).status == NfsStat3.NFS3ERR_NOTDIR
    assert call(service, p.GETATTR, FhArgs(fh=b"?")).status == NfsStat3.NFS3ERR_STALE
    assert call(service, p.ACCESS, files.AccessArgs(fh=found.fh, access=0x3F)).access == 0x3F
    assert call(service, p.FSINFO, FhArgs(fh=ROOT_FH)).wtmax == 1 << 20


def test_files_are_made_and_cut(service: NfsService) -> None:
    """CREATE makes a file once; SETATTR cuts it, and what was behind the cut reads as zeroes."""
    made = call(service, p.CREATE, files.CreateArgs(dir_fh=ROOT_FH, name="new"))
    assert call(service, p.CREATE, files.CreateArgs(dir_fh=ROOT_FH, name="new")).fh == made.fh
    guarded = files.CreateArgs(dir_fh=ROOT_FH, name="new", guarded=True)
    assert call(service, p.CREATE, guarded).status == NfsStat3.NFS3ERR_EXIST
    call(service, p.WRITE, data.WriteArgs(fh=made.fh, offset=0, stable=2, data=Blocks.of((7, 8))))
    cut = files.SetattrArgs(fh=made.fh, attributes=Sattr3(size_bytes=BLOCK_SIZE))
    assert call(service, p.SETATTR, cut).wcc.after.size_bytes == BLOCK_SIZE
    assert service.files[made.fh].store.versions[:2].tolist() == [7, 0]
    large = files.SetattrArgs(fh=made.fh, attributes=Sattr3(size_bytes=1 << 40))
    assert call(service, p.SETATTR, large).status == NfsStat3.NFS3ERR_NOSPC


def test_what_is_unstable_is_lost_with_the_server(service: NfsService) -> None:
    """A restart takes back what was neither FILE_SYNC nor committed, and shows another verifier."""
    (file,) = service.files.values()
    unstable = data.WriteArgs(fh=file.fh, offset=0, stable=StableHow.UNSTABLE, data=Blocks.of((1, 2)))
    stable = data.WriteArgs(fh=file.fh, offset=2 * BLOCK_SIZE, stable=StableHow.FILE_SYNC, data=Blocks.of((3,)))
    first = call(service, p.WRITE, unstable)
    assert (first.count, first.committed) == (2 * BLOCK_SIZE, StableHow.UNSTABLE)
    assert call(service, p.WRITE, stable).committed == StableHow.FILE_SYNC
    service.restart(0)
    assert file.store.versions[:3].tolist() == [0, 0, 3]
    assert service.nr_lost_blocks == 2
    assert call(service, p.COMMIT, data.CommitArgs(fh=file.fh)).verifier != first.verifier
    call(service, p.WRITE, unstable)
    call(service, p.COMMIT, data.CommitArgs(fh=file.fh))
    service.restart(0)
    assert file.store.versions[:3].tolist() == [1, 2, 3]


def test_reading_ends_with_the_file(service: NfsService) -> None:
    """READ gives what is there, says when that was the end, and refuses what is not whole pages to it."""
    (file,) = service.files.values()
    call(service, p.WRITE, data.WriteArgs(fh=file.fh, offset=0, stable=2, data=Blocks.of((1, 2, 3))))
    found = call(service, p.READ, data.ReadArgs(fh=file.fh, offset=BLOCK_SIZE, count=BLOCK_SIZE))
    assert (found.data, found.eof) == (Blocks.of((2,)), False)
    assert call(service, p.READ, data.ReadArgs(fh=file.fh, offset=0, count=1 << 20)).eof
    beyond = call(service, p.READ, data.ReadArgs(fh=file.fh, offset=1 << 30, count=1))
    assert (beyond.data.size_bytes, beyond.eof) == (0, True)
    odd = data.WriteArgs(fh=file.fh, offset=5, stable=2, data=Octets(b"abc"))
    assert call(service, p.WRITE, odd).status == NfsStat3.NFS3ERR_INVAL
    far = data.WriteArgs(fh=file.fh, offset=1 << 30, stable=2, data=Blocks.of((1,)))
    assert call(service, p.WRITE, far).status == NfsStat3.NFS3ERR_NOSPC


def test_a_full_disk_takes_old_pages_and_no_new_ones(service: NfsService) -> None:
    """New pages are refused; pages that are there are written again, as are those of a file that has its blocks."""
    (file,) = service.files.values()
    swap = service.add_file("s", 4 * BLOCK_SIZE, BlockStore(4 * BLOCK_SIZE, write_cache=True), is_allocated=True)
    call(service, p.WRITE, data.WriteArgs(fh=file.fh, offset=0, stable=2, data=Blocks.of((1, 2))))
    service.is_full = True
    again = data.WriteArgs(fh=file.fh, offset=0, stable=2, data=Blocks.of((3, 4)))
    assert call(service, p.WRITE, again).status == NfsStat3.NFS3_OK
    beyond = data.WriteArgs(fh=file.fh, offset=BLOCK_SIZE, stable=2, data=Blocks.of((5, 6)))
    assert call(service, p.WRITE, beyond).status == NfsStat3.NFS3ERR_NOSPC
    assert file.store.versions[:3].tolist() == [3, 4, 0]
    there = data.WriteArgs(fh=swap.fh, offset=0, stable=2, data=Blocks.of((7,)))
    assert call(service, p.WRITE, there).status == NfsStat3.NFS3_OK
    assert call(service, p.COMMIT, data.CommitArgs(fh=file.fh)).status == NfsStat3.NFS3_OK
    service.is_full = False
    assert call(service, p.WRITE, beyond).status == NfsStat3.NFS3_OK


def test_a_restart_is_told_with_the_instant_of_its_end(service: NfsService) -> None:
    """Everybody who asked hears when the server is back, in order, once what was unstable is lost."""
    told: list[tuple[str, int, bytes]] = []
    before = service.boot_verifier
    service.restarted.append(lambda back_ns: told.append(("first", back_ns, service.boot_verifier)))
    service.restarted.append(lambda back_ns: told.append(("second", back_ns, service.boot_verifier)))
    service.restart(5_000_000_000)
    assert told == [(who, 5_000_000_000, service.boot_verifier) for who in ("first", "second")]
    assert service.boot_verifier != before


def test_an_export_has_the_procedures_it_is_given(service: NfsService) -> None:
    """A procedure nobody serves has no result; one that is added is executed as the others are."""
    args = CompoundArgs(operations=((Nfs4Op.PUTROOTFH, VoidArgs()),))
    assert call(service, p.COMPOUND, args) is None
    answer = CompoundRes(tag="tag")
    asked: list[object] = []

    def compound(args: object) -> CompoundRes:
        asked.append(args)
        return answer

    service.serve(p.COMPOUND, compound)
    assert call(service, p.COMPOUND, args) is answer
    assert service.call(p.COMPOUND, args) is answer
    assert asked == [args, args]
    assert service.call(p.GETATTR, FhArgs(fh=ROOT_FH)).status == NfsStat3.NFS3_OK


def test_a_compound_takes_as_long_as_what_is_in_it() -> None:
    """A WRITE and a READ move their bytes and a COMMIT takes its time, as they do in calls of their own."""
    disk = DiskModel(bandwidth_bytes_per_s=BLOCK_SIZE * 1_000)
    service = NfsService(World(seeds=Seeds(1)), disk, capacity_bytes=16 * BLOCK_SIZE, commit_ns=300)
    pages = Blocks.of((1, 2))
    write = Write4Args(stateid=ANONYMOUS, offset=0, stable=StableHow.UNSTABLE, data=pages)
    root = (Nfs4Op.PUTROOTFH, VoidArgs())
    rows: list[tuple[p.Procedure, object, int]] = [
        (p.WRITE, data.WriteArgs(fh=b"f", offset=0, stable=StableHow.UNSTABLE, data=pages), 2_000_000),
        (p.READ, data.ReadArgs(fh=b"f", offset=0, count=3 * BLOCK_SIZE), 3_000_000),
        (p.COMMIT, data.CommitArgs(fh=b"f"), 300),
        (p.GETATTR, FhArgs(fh=b"f"), 0),
        (p.COMPOUND, CompoundArgs(operations=(root, (Nfs4Op.WRITE, write))), 2_000_000),
        (
            p.COMPOUND,
            CompoundArgs(
                operations=(root, (Nfs4Op.READ, Read4Args(stateid=ANONYMOUS, offset=0, count=3 * BLOCK_SIZE)))
            ),
            3_000_000,
        ),
        (p.COMPOUND, CompoundArgs(operations=(root, (Nfs4Op.COMMIT, Commit4Args()))), 300),
        (p.COMPOUND, CompoundArgs(operations=(root,)), 0),
        (p.COMPOUND, CompoundArgs(operations=()), 0),
    ]
    for at, (procedure, args, takes_ns) in enumerate(rows):
        now_ns = at * 1_000_000_000
        assert service.due_ns(Request(1, procedure, args, 0), now_ns) - now_ns == takes_ns
