"""How a PDU lies on the wire: RFC 7143 11.2, the template all of them share.

The BHS comes first, then the additional header segment if TotalAHSLength says so, then the header digest if one was
negotiated, then the data segment padded with zeros to a multiple of four bytes, then its digest. A digest is the CRC32C
of what it covers (11.2.3), sent with its lowest byte first. Digests exist only in the full feature phase; the reader
and the writer of a connection are told when they begin.

A :class:`Pdu` keeps its chunks apart: the bytes are what the kernel copies into a socket (headers, padding, digests)
and the one payload is what it sends by page reference. Computing a data digest needs the bytes, so it renders them,
once on each side, and is slow; nobody swaps with data digests on.
"""

from typing import NamedTuple

from storage_backends.iscsi.messages.codec import data_of, pull, push
from storage_backends.iscsi.messages.pdus import BHS_SIZE, Message, ScsiCommand
from storage_backends.wire import Chunk, ChunkBuffer, RemoteProtocolError, render, size_of

__all__ = ["Pdu", "PduReader", "crc32c", "frame"]

_DIGEST_SIZE = 4
_CRC32C_POLYNOMIAL_REFLECTED = 0x82F63B78


def _crc32c_table() -> tuple[int, ...]:
    """Return the remainder of each byte."""
    table = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (_CRC32C_POLYNOMIAL_REFLECTED if remainder & 1 else 0)
        table.append(remainder)
    return tuple(table)


_TABLE = _crc32c_table()


class Pdu(NamedTuple):
    """One PDU ready to be sent."""

    message: Message
    chunks: tuple[Chunk, ...]
    """Bytes to copy; at most one payload to reference."""

    @property
    def itt(self) -> int:
        """The task it belongs to."""
        return self.message.itt

    @property
    def size_bytes(self) -> int:
        """Length on the wire."""
        return sum(map(size_of, self.chunks))


def crc32c(data: bytes) -> int:
    """Return the Castagnoli CRC of ``data``."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = remainder >> 8 ^ _TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF


def frame(message: Message, *, header_digest: bool = False, data_digest: bool = False) -> Pdu:
    """Return a message as it is sent."""
    header = push(message)
    if isinstance(message, ScsiCommand):
        header += message.ahs
    if header_digest:
        header += _digest(header)
    data = data_of(message)
    size = size_of(data)
    if not size:
        return Pdu(message, (header,))
    trailer = bytes(-size % 4)
    if data_digest:
        trailer += _digest(render([data, trailer]))
    if isinstance(data, bytes):
        return Pdu(message, (header + data + trailer,))
    return Pdu(message, (header, data, trailer) if trailer else (header, data))


class PduReader:
    """The inlet of a connection: chunks in, PDUs out."""

    __slots__ = ("_buffer", "_header", "data_digest", "header", "header_digest", "max_data_length")

    def __init__(self, max_data_length: int) -> None:
        self._buffer = ChunkBuffer()
        # invariant: the BHS that has arrived and whose PDU has not
        self._header: bytes | None = None
        self.header = b""
        """The BHS that arrived last, for a Reject to show."""
        self.header_digest = False
        self.data_digest = False
        self.max_data_length = max_data_length
        """What this side declared as MaxRecvDataSegmentLength (13.12)."""
        # so that bytes_wanted is right before the first byte
        self.pull()

    @property
    def bytes_wanted(self) -> int:
        """How many more bytes complete the next header, or what follows it."""
        return self._buffer.bytes_missing

    @property
    def inside(self) -> bool:
        """Whether a PDU has arrived in part."""
        return self._header is not None or self._buffer.size_bytes > 0

    def push(self, chunk: Chunk) -> None:
        """Take a chunk of the stream."""
        self._buffer.push(chunk)

    def pull(self) -> Message | None:
        """Return the next PDU, or None until it has arrived. Raises RemoteProtocolError if it cannot be one."""
        if self._buffer.bytes_missing:
            return None
        header = self._header
        if header is None:
            header = self._buffer.pull_bytes(BHS_SIZE)
            if header is None:
                return None
            self._header = self.header = header
        ahs_size = header[4] << 2
        data_size = int.from_bytes(header[5:8], "big")
        if data_size > self.max_data_length:
            raise RemoteProtocolError(
                f"data segment of {data_size} bytes, more than MaxRecvDataSegmentLength {self.max_data_length}"
            )
        between = ahs_size + (_DIGEST_SIZE if self.header_digest else 0)
        padding = -data_size % 4
        behind = padding + (_DIGEST_SIZE if data_size and self.data_digest else 0)
        if not between and not behind:
            return self._pull_plain(header, data_size)
        chunks = self._buffer.pull(between + data_size + behind)
        if chunks is None:
            return None
        self._header = None
        rest = ChunkBuffer()
        for chunk in chunks:
            rest.push(chunk)
        ahs = rest.pull_bytes(ahs_size) or b""
        if self.header_digest:
            _check_digest("header", header + ahs, rest)
        data = rest.pull(data_size) or []
        pad = rest.pull_bytes(padding) or b""
        if data_size and self.data_digest:
            _check_digest("data", render([*data, pad]), rest)
        assert rest.size_bytes == 0
        return pull(header, ahs, data)

    def _pull_plain(self, header: bytes, data_size: int) -> Message | None:
        """Return the PDU of a header that only whole data follows: every PDU of a swap without digests."""
        data = self._buffer.pull(data_size)
        if data is None:
            return None
        self._header = None
        return pull(header, b"", data)


def _digest(covered: bytes) -> bytes:
    return crc32c(covered).to_bytes(_DIGEST_SIZE, "little")


def _check_digest(what: str, covered: bytes, buffer: ChunkBuffer) -> None:
    """Consume a digest. At ErrorRecoveryLevel 0 a wrong one is the end of the connection (7.8)."""
    received = buffer.pull_bytes(_DIGEST_SIZE)
    assert received is not None
    expected = _digest(covered)
    if received != expected:
        raise RemoteProtocolError(f"{what} digest is {received.hex()}, computed {expected.hex()}")
