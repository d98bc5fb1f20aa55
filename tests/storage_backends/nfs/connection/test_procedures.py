"""The table of procedures."""

from storage_backends.nfs.connection import procedures
from storage_backends.nfs.connection.procedures import PROCEDURES, VERSIONS, Procedure
from storage_backends.nfs.messages.attributes import Fattr3, WccData
from storage_backends.nfs.messages.compound import CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import CommitArgs, ReadArgs, WriteArgs, WriteRes
from storage_backends.nfs.messages.nfs3 import FhArgs
from storage_backends.nfs.messages.nfs4 import Nfs4Op, StatusRes, VoidArgs
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Blocks, render


def key_of(procedure: Procedure) -> tuple[int, int, int]:
    """Return what a procedure is found by."""
    return procedure.program, procedure.version, procedure.number


def test_every_procedure_is_found_by_its_number() -> None:
    """Ten of NFS version 3, two of version 4 and three of MOUNT, each in a version there is."""
    assert len(PROCEDURES) == 15
    for (program, version, number), procedure in PROCEDURES.items():
        assert (procedure.program, procedure.version, procedure.number) == (program, version, number)
        low, high = VERSIONS[program]
        assert low <= version <= high


def test_every_name_is_in_the_table() -> None:
    """A procedure that can be called is one that can be served, and none is there twice."""
    named = [row for row in vars(procedures).values() if isinstance(row, Procedure)]
    assert sorted(named, key=key_of) == sorted(PROCEDURES.values(), key=key_of)
    assert len({key_of(row) for row in named}) == len(named)


def test_each_version_has_its_procedures() -> None:
    """Every version of a program does nothing when told to; version 4 of NFS has COMPOUND besides and no more."""
    assert VERSIONS == {100003: (3, 4), 100005: (3, 3)}
    assert {key for key in PROCEDURES if key[:2] == (100003, 4)} == {(100003, 4, 0), (100003, 4, 1)}
    assert PROCEDURES[100003, 4, 0] is procedures.NULL4
    assert PROCEDURES[100003, 4, 1] is procedures.COMPOUND
    for program, (low, high) in VERSIONS.items():
        for version in range(low, high + 1):
            assert PROCEDURES[program, version, 0].name == "NULL"


def test_a_compound_is_named_for_what_it_does() -> None:
    """Only the name differs from COMPOUND's, which the table keeps."""
    write = procedures.compound("WRITE")
    assert write.name == "WRITE"
    assert procedures.COMPOUND.name == "COMPOUND"
    assert write[1:] == procedures.COMPOUND[1:]
    assert PROCEDURES[key_of(write)] is procedures.COMPOUND


def test_each_row_reads_what_it_writes() -> None:
    """Arguments pushed by a row are pulled by the same row."""
    rows = [
        (procedures.NULL, None),
        (procedures.GETATTR, FhArgs(fh=b"a")),
        (procedures.READ, ReadArgs(fh=b"a", offset=0, count=1)),
        (procedures.WRITE, WriteArgs(fh=b"a", offset=0, stable=2, data=Blocks.of((1,)))),
        (procedures.COMMIT, CommitArgs(fh=b"a")),
        (procedures.NULL4, None),
        (procedures.COMPOUND, CompoundArgs(operations=((Nfs4Op.PUTROOTFH, VoidArgs()),), tag="a")),
    ]
    for procedure, args in rows:
        writer = XdrWriter()
        procedure.push_args(writer, args)
        assert procedure.pull_args(XdrReader.of(*writer.chunks())) == args


def test_a_compound_is_answered_as_its_row_says() -> None:
    """Results pushed by the row are pulled by the same row, under whatever name."""
    answer = CompoundRes(results=((Nfs4Op.PUTROOTFH, StatusRes()),), tag="a")
    for procedure in (procedures.COMPOUND, procedures.compound("MOUNT")):
        writer = XdrWriter()
        procedure.push_res(writer, answer)
        assert procedure.pull_res(XdrReader.of(*writer.chunks())) == answer


def test_an_answer_to_a_write_is_as_long_as_the_recorded_ones() -> None:
    """136 bytes with RPC's 24, attributes after and none before, as the recorded server answers."""
    writer = XdrWriter()
    procedures.WRITE.push_res(writer, WriteRes(wcc=WccData(after=Fattr3()), count=4096, committed=2))
    assert len(render(writer.chunks())) == 136 - 24
