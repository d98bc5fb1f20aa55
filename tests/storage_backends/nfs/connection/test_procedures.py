"""The table of procedures."""

from storage_backends.nfs.connection import procedures
from storage_backends.nfs.connection.procedures import PROCEDURES, VERSIONS
from storage_backends.nfs.messages.attributes import Fattr3, WccData
from storage_backends.nfs.messages.data import CommitArgs, ReadArgs, WriteArgs, WriteRes
from storage_backends.nfs.messages.nfs3 import FhArgs
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Blocks, render


def test_every_procedure_is_found_by_its_number() -> None:
    """Ten of NFS and three of MOUNT, each in the version there is."""
    assert len(PROCEDURES) == 13
    for (program, number), procedure in PROCEDURES.items():
        assert (procedure.program, procedure.number) == (program, number)
        assert procedure.version == VERSIONS[program]


def test_each_row_reads_what_it_writes() -> None:
    """Arguments pushed by a row are pulled by the same row."""
    rows = [
        (procedures.NULL, None),
        (procedures.GETATTR, FhArgs(fh=b"a")),
        (procedures.READ, ReadArgs(fh=b"a", offset=0, count=1)),
        (procedures.WRITE, WriteArgs(fh=b"a", offset=0, stable=2, data=Blocks.of((1,)))),
        (procedures.COMMIT, CommitArgs(fh=b"a")),
    ]
    for procedure, args in rows:
        writer = XdrWriter()
        procedure.push_args(writer, args)
        assert procedure.pull_args(XdrReader.of(*writer.chunks())) == args


def test_an_answer_to_a_write_is_as_long_as_the_recorded_ones() -> None:
    """136 bytes with RPC's 24, attributes after and none before, as the recorded server answers."""
    writer = XdrWriter()
    procedures.WRITE.push_res(writer, WriteRes(wcc=WccData(after=Fattr3()), count=4096, committed=2))
    assert len(render(writer.chunks())) == 136 - 24
