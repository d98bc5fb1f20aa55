"""One command as its target sees it: RFC 7143 4.2.5.2, data transfer, from the receiver of writes.

What a write brings unasked is bounded by what was negotiated: immediate data only with ImmediateData, unsolicited
Data-Out only with InitialR2T=No, both together at most FirstBurstLength. Once that has come to its end the target asks
for the rest, at most MaxBurstLength an R2T and MaxOutstandingR2T at a time. Every byte must come once and in order;
anything else is the initiator's fault.

A read's data is cut to what the initiator takes in one PDU, in bursts of at most MaxBurstLength; the last PDU carries
the status.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from storage_backends.iscsi.login.keys import SessionParameters
from storage_backends.iscsi.messages.pdus import RESERVED_TAG, CommandFlag, DataFlag, DataOut, ScsiCommand
from storage_backends.iscsi.scsi import Answer, MediumAccess
from storage_backends.wire import Chunk, Payload, RemoteProtocolError, join

__all__ = ["DataPart", "TargetTask"]


class DataPart(NamedTuple):
    """One Data-In of a read."""

    flags: int
    datasn: int
    offset: int
    payload: Payload


class _Asked(NamedTuple):
    """An R2T that was sent."""

    ttt: int
    stop: int


class TargetTask:
    """A command from its arrival to its response."""

    __slots__ = (
        "_asked",
        "_datasn",
        "_parts",
        "_promised",
        "_r2tsn",
        "command",
        "is_delivered",
        "is_unsolicited_open",
        "outcome",
        "received",
        "write_length",
    )

    def __init__(self, command: ScsiCommand, outcome: Answer | MediumAccess, parameters: SessionParameters) -> None:
        self.command = command
        self.outcome = outcome
        """What the disk has to do, or what the answer will be once the initiator has stopped sending."""
        self.is_delivered = False
        self.write_length = command.data_length if command.flags & CommandFlag.WRITE else 0
        # invariant: the parts make up the first ``received`` bytes of the write
        self._parts: list[Chunk] = []
        self.received = 0
        # invariant: R2Ts not yet answered in full, oldest first; together they ask for ``received`` to ``_promised``
        self._asked: deque[_Asked] = deque()
        self._promised = 0
        self._r2tsn = 0
        # invariant: DataSN of the next Data-Out of the sequence under way
        self._datasn = 0
        self.is_unsolicited_open = not command.flags & CommandFlag.FINAL
        """More comes unasked."""
        if self.is_unsolicited_open and (parameters.initial_r2t or not self.write_length):
            raise RemoteProtocolError(f"task {command.itt:#x} announces unsolicited data, InitialR2T=Yes")
        if command.payload is not None:
            if not parameters.immediate_data:
                raise RemoteProtocolError(f"task {command.itt:#x} brings immediate data, ImmediateData=No")
            self._take(command.payload, parameters.first_burst_length)

    @property
    def has_all_data(self) -> bool:
        """Whether everything the command writes has arrived."""
        return self.received == self.write_length

    def take_data_out(self, data_out: DataOut, parameters: SessionParameters) -> None:
        """Keep a part of a write (11.7)."""
        if data_out.datasn != self._datasn:
            raise RemoteProtocolError(f"DataSN {data_out.datasn} of task {data_out.itt:#x}, expected {self._datasn}")
        if data_out.offset != self.received:
            raise RemoteProtocolError(
                f"Data-Out of task {data_out.itt:#x} begins at byte {data_out.offset}, expected {self.received}"
            )
        is_final = data_out.flags & DataFlag.FINAL != 0
        if self.is_unsolicited_open:
            expected_ttt, stop = RESERVED_TAG, parameters.first_burst_length
        elif self._asked:
            expected_ttt, stop = self._asked[0]
        else:
            raise RemoteProtocolError(f"Data-Out of task {data_out.itt:#x}, which asked for none")
        if data_out.ttt != expected_ttt:
            raise RemoteProtocolError(f"TTT {data_out.ttt:#x} of task {data_out.itt:#x}, expected {expected_ttt:#x}")
        if data_out.payload is not None:
            self._take(data_out.payload, stop)
        self._datasn = 0 if is_final else self._datasn + 1
        if self.is_unsolicited_open:
            self.is_unsolicited_open = not is_final
        elif is_final != (self.received == stop):
            raise RemoteProtocolError(
                f"Data-Out of task {data_out.itt:#x} {'ends' if is_final else 'goes on'} "
                f"at byte {self.received}, asked for up to {stop}"
            )
        elif is_final:
            self._asked.popleft()

    def next_r2t(self, parameters: SessionParameters, ttt: int) -> tuple[int, int, int] | None:
        """Return R2TSN, offset and length to ask for now under the tag ``ttt``, or None."""
        self._promised = max(self._promised, self.received)
        if self._promised == self.write_length or len(self._asked) >= parameters.max_outstanding_r2t:
            return None
        offset = self._promised
        self._promised = min(offset + parameters.max_burst_length, self.write_length)
        self._asked.append(_Asked(ttt, self._promised))
        r2tsn, self._r2tsn = self._r2tsn, self._r2tsn + 1
        return r2tsn, offset, self._promised - offset

    def data_written(self) -> Payload | None:
        """Return everything the command writes."""
        assert self.has_all_data
        return join(self._parts) if self._parts else None

    def data_in(self, payload: Payload, parameters: SessionParameters) -> Iterator[DataPart]:
        """Cut what a read found into its PDUs; the last has the STATUS flag."""
        size = min(payload.size_bytes, self.command.data_length)
        offset = datasn = 0
        burst_stop = 0
        while offset < size:
            if offset == burst_stop:
                burst_stop = min(offset + parameters.max_burst_length, size)
            stop = min(offset + parameters.max_xmit_data_length, burst_stop)
            flags = DataFlag.FINAL if stop == burst_stop else 0
            if stop == size:
                flags |= DataFlag.STATUS
            yield DataPart(flags, datasn, offset, payload.part(offset, stop))
            offset = stop
            datasn += 1

    def _take(self, payload: Payload, burst_stop: int) -> None:
        """Append data that must end at ``burst_stop`` and inside the command."""
        stop = self.received + payload.size_bytes
        if stop > min(burst_stop, self.write_length):
            raise RemoteProtocolError(
                f"task {self.command.itt:#x} sends bytes {self.received}..{stop} of {self.write_length}, "
                f"its burst ends at {burst_stop}"
            )
        self._parts.append(payload)
        self.received = stop
