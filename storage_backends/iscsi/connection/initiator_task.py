"""One command as its initiator sees it: RFC 7143 4.2.5.2, data transfer, from the sender of writes.

A write's first data travels with its command as far as ImmediateData, FirstBurstLength and the target's
MaxRecvDataSegmentLength allow; what InitialR2T=No allows beyond that follows as one unsolicited sequence of Data-Out.
The rest waits for R2Ts: each asks for at most MaxBurstLength and is answered by one sequence. With DataPDUInOrder and
DataSequenceInOrder, the only orders offered here, every byte is sent and received exactly once and in order; anything
else is the target's fault.
"""

from collections import deque

from storage_backends.iscsi import scsi
from storage_backends.iscsi.login.keys import SessionParameters
from storage_backends.iscsi.messages.pdus import RESERVED_TAG, CommandFlag, DataFlag, DataIn, DataOut, R2t, ScsiCommand
from storage_backends.wire import Chunk, Payload, RemoteProtocolError, join, size_of

__all__ = ["InitiatorTask"]


class _Sequence:
    """Data-Out PDUs that belong together."""

    __slots__ = ("datasn", "offset", "stop", "ttt")

    def __init__(self, ttt: int, offset: int, stop: int) -> None:
        self.ttt = ttt
        """The R2T it answers; reserved for the unsolicited one."""
        self.offset = offset
        self.stop = stop
        self.datasn = 0


class InitiatorTask:
    """A command from its request to its end."""

    __slots__ = (
        "_cdb",
        "_datasn",
        "_lun",
        "_parts",
        "_payload",
        "_promised",
        "_r2tsn",
        "_read_length",
        "_received",
        "_sequences",
        "cmdsn",
        "held",
        "is_sent",
        "itt",
    )

    def __init__(self, itt: int, lun: int, cdb: bytes, *, payload: Payload | None = None, read_length: int = 0) -> None:
        self.itt = itt
        self._lun = scsi.push_lun(lun)
        self._cdb = cdb
        self._payload = payload
        self._read_length = read_length
        self.is_sent = False
        self.cmdsn = 0
        """Given when it is sent."""
        self.held = False
        """A task management function is out for it."""
        # invariant: sequences not yet sent to their end, in the order they were asked for
        self._sequences: deque[_Sequence] = deque()
        # invariant: bytes of the payload sent or in a sequence, always the first ones
        self._promised = 0
        self._r2tsn = 0
        # invariant: the parts make up the first ``_received`` bytes of the read
        self._parts: list[Chunk] = []
        self._received = 0
        self._datasn = 0

    @property
    def has_data_to_send(self) -> bool:
        """Whether a sequence of Data-Out is under way or waiting."""
        return bool(self._sequences)

    def command(self, parameters: SessionParameters, *, cmdsn: int, exp_statsn: int) -> ScsiCommand:
        """Return the command PDU with its immediate data, and line up the unsolicited rest of the first burst."""
        assert not self.is_sent
        self.is_sent = True
        self.cmdsn = cmdsn
        flags = CommandFlag.SIMPLE | CommandFlag.FINAL
        data_length = self._read_length
        immediate = None
        if self._payload is not None:
            data_length = self._payload.size_bytes
            first_burst = min(parameters.first_burst_length, data_length)
            if parameters.immediate_data:
                self._promised = min(first_burst, parameters.max_xmit_data_length)
                immediate = self._payload.part(0, self._promised)
            flags |= CommandFlag.WRITE
            if not parameters.initial_r2t and self._promised < first_burst:
                # 11.3.1: without the F bit unsolicited Data-Out follows
                flags &= ~CommandFlag.FINAL
                self._sequences.append(_Sequence(RESERVED_TAG, self._promised, first_burst))
                self._promised = first_burst
        elif data_length:
            flags |= CommandFlag.READ
        return ScsiCommand(
            flags=flags,
            lun=self._lun,
            itt=self.itt,
            data_length=data_length,
            cmdsn=cmdsn,
            exp_statsn=exp_statsn,
            cdb=self._cdb,
            payload=immediate,
        )

    def next_data_out(self, parameters: SessionParameters, *, exp_statsn: int) -> DataOut:
        """Return the next PDU of the sequence under way."""
        assert self._payload is not None
        sequence = self._sequences[0]
        offset, datasn = sequence.offset, sequence.datasn
        sequence.offset = min(offset + parameters.max_xmit_data_length, sequence.stop)
        sequence.datasn += 1
        is_final = sequence.offset == sequence.stop
        if is_final:
            self._sequences.popleft()
        return DataOut(
            flags=DataFlag.FINAL if is_final else 0,
            lun=self._lun,
            itt=self.itt,
            ttt=sequence.ttt,
            exp_statsn=exp_statsn,
            datasn=datasn,
            offset=offset,
            payload=self._payload.part(offset, sequence.offset),
        )

    def take_r2t(self, r2t: R2t, parameters: SessionParameters) -> None:
        """Line up the sequence an R2T asks for (11.8)."""
        size = 0 if self._payload is None else self._payload.size_bytes
        stop = r2t.offset + r2t.data_length
        if r2t.r2tsn != self._r2tsn:
            raise RemoteProtocolError(f"R2TSN {r2t.r2tsn} of task {self.itt:#x}, expected {self._r2tsn}")
        if not 0 < r2t.data_length <= parameters.max_burst_length:
            raise RemoteProtocolError(
                f"R2T of task {self.itt:#x} desires {r2t.data_length} bytes, "
                f"MaxBurstLength {parameters.max_burst_length}"
            )
        if r2t.offset != self._promised or stop > size:
            raise RemoteProtocolError(
                f"R2T of task {self.itt:#x} desires bytes {r2t.offset}..{stop} of {size}, {self._promised} are promised"
            )
        if sum(sequence.ttt != RESERVED_TAG for sequence in self._sequences) >= parameters.max_outstanding_r2t:
            raise RemoteProtocolError(
                f"R2T of task {self.itt:#x} exceeds MaxOutstandingR2T {parameters.max_outstanding_r2t}"
            )
        self._r2tsn += 1
        self._promised = stop
        self._sequences.append(_Sequence(r2t.ttt, r2t.offset, stop))

    def take_data_in(self, data_in: DataIn) -> None:
        """Keep the data of a read (11.7)."""
        size = 0 if data_in.payload is None else size_of(data_in.payload)
        if data_in.datasn != self._datasn:
            raise RemoteProtocolError(f"DataSN {data_in.datasn} of task {self.itt:#x}, expected {self._datasn}")
        if data_in.offset != self._received or self._received + size > self._read_length:
            raise RemoteProtocolError(
                f"Data-In of task {self.itt:#x} brings bytes {data_in.offset}..{data_in.offset + size} of "
                f"{self._read_length}, {self._received} have come"
            )
        # 13.13 bounds a sequence of Data-In too, but Linux does not look and the tgt target does not keep to it
        self._datasn += 1
        self._received += size
        if data_in.payload is not None:
            self._parts.append(data_in.payload)

    def data_received(self, *, underflow: int) -> Payload | None:
        """Return what a read found that ended GOOD, ``underflow`` bytes short."""
        if self._received + underflow != self._read_length:
            raise RemoteProtocolError(
                f"task {self.itt:#x} ended with {self._received} of {self._read_length} bytes, residual {underflow}"
            )
        return join(self._parts) if self._parts else None
