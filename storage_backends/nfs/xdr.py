"""External Data Representation (RFC 4506): integers, opaque data and strings in units of four bytes, big-endian.

A :class:`XdrReader` pulls items off one complete message; a :class:`XdrWriter` pushes them. Bulk data is payload by
reference on both sides: the writer puts the length before it and the zeroes that round it up to four bytes behind it
(section 4.10), the reader hands it on as it came and checks that the fill is zero.

Everything read comes from a peer. A message that is too short, an enumeration or a boolean that is none of its values,
a length beyond what the RFC allows and bytes left over are all :class:`~storage_backends.wire.RemoteProtocolError`.

Left out: floating point, unions and structures as such, which the messages spell out, and signed integers, which
neither ONC RPC nor NFS has.
"""

from collections.abc import Sequence
from struct import Struct

from storage_backends.wire import Chunk, ChunkBuffer, Payload, RemoteProtocolError, render

__all__ = ["UNIT_BYTES", "XdrReader", "XdrWriter", "fill_bytes"]

UNIT_BYTES = 4
"""BYTES_PER_XDR_UNIT: everything is a multiple of it."""

_U32 = Struct(">I")
_U64 = Struct(">Q")


def fill_bytes(size_bytes: int) -> int:
    """Return how many zeroes follow opaque data of this length."""
    return -size_bytes % UNIT_BYTES


class XdrReader:
    """One complete message, consumed item by item."""

    __slots__ = ("_at", "_buffer", "_head")

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        # the bytes a message begins with are most of what is read of it: they are kept apart, with a place in them
        nr_head = 0
        while nr_head < len(chunks) and isinstance(chunks[nr_head], bytes):
            nr_head += 1
        self._head = render(chunks[:nr_head])
        self._at = 0
        self._buffer = ChunkBuffer()
        for chunk in chunks[nr_head:]:
            self._buffer.push(chunk)

    @classmethod
    def of(cls, *chunks: Chunk) -> "XdrReader":
        """Return a reader of these chunks."""
        return cls(chunks)

    @property
    def bytes_left(self) -> int:
        """What was not consumed."""
        return len(self._head) - self._at + self._buffer.size_bytes

    def _pull(self, size_bytes: int) -> bytes | None:
        """Consume bytes, from the head while it has them."""
        end = self._at + size_bytes
        if end <= len(self._head):
            raw = self._head[self._at : end]
            self._at = end
            return raw
        self._join()
        return self._buffer.pull_bytes(size_bytes)

    def _join(self) -> None:
        """Put what is left of the head before the rest."""
        rest = self._head[self._at :]
        self._head, self._at = b"", 0
        if rest:
            behind = self._buffer.pull(self._buffer.size_bytes)
            self._buffer = ChunkBuffer()
            for chunk in (rest, *(behind or ())):
                self._buffer.push(chunk)

    def unpack(self, layout: Struct) -> tuple[int, ...]:
        """Return several integers at once."""
        return layout.unpack(self.fixed(layout.size))

    def fixed(self, size_bytes: int) -> bytes:
        """Return opaque data of a length both sides know (section 4.9)."""
        raw = self._pull(size_bytes + fill_bytes(size_bytes))
        if raw is None:
            raise RemoteProtocolError(f"XDR item of {size_bytes} bytes in a message with {self.bytes_left} left")
        if size_bytes % UNIT_BYTES:
            if any(raw[size_bytes:]):
                raise RemoteProtocolError(f"opaque data of {size_bytes} bytes is filled up with {raw[size_bytes:]!r}")
            return raw[:size_bytes]
        return raw

    def uint(self) -> int:
        """Return an unsigned integer (section 4.2)."""
        return int.from_bytes(self.fixed(_U32.size), "big")

    def hyper(self) -> int:
        """Return an unsigned hyper integer (section 4.5)."""
        return int.from_bytes(self.fixed(_U64.size), "big")

    def boolean(self) -> bool:
        """Return a boolean, which is 0 or 1 (section 4.4)."""
        value = self.uint()
        if value > 1:
            raise RemoteProtocolError(f"boolean is {value}, not 0 or 1")
        return value == 1

    def opaque(self, size_bytes_max: int) -> bytes:
        """Return opaque data that brings its length (section 4.10)."""
        return self.fixed(self.length(size_bytes_max))

    def string(self, size_bytes_max: int) -> str:
        """Return a string (section 4.11); bytes that are no UTF-8 are kept as surrogates."""
        return self.opaque(size_bytes_max).decode("utf-8", "surrogateescape")

    def payload(self, size_bytes_max: int) -> Payload:
        """Return opaque data that brings its length, by reference."""
        size_bytes = self.length(size_bytes_max)
        self._join()
        payload = self._buffer.pull_payload(size_bytes)
        if payload is None:
            raise RemoteProtocolError(f"data of {size_bytes} bytes in a message with {self.bytes_left} left")
        fill = self._buffer.pull_bytes(fill_bytes(size_bytes))
        if fill is None or any(fill):
            raise RemoteProtocolError(f"data of {size_bytes} bytes is filled up with {fill!r}")
        return payload

    def length(self, size_max: int) -> int:
        """Return the length of what follows, at most ``size_max``."""
        size = self.uint()
        if size > size_max:
            raise RemoteProtocolError(f"length {size} is more than {size_max}")
        return size

    def rest(self) -> bytes:
        """Consume everything that is left."""
        raw = self._pull(self.bytes_left)
        assert raw is not None
        return raw

    def done(self) -> None:
        """Insist that nothing is left."""
        if self.bytes_left:
            raise RemoteProtocolError(f"{self.bytes_left} bytes left over behind a message")


class XdrWriter:
    """One message being put together."""

    __slots__ = ("_chunks", "_head")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._head = bytearray()

    def pack(self, layout: Struct, *values: int) -> None:
        """Append several integers at once."""
        self._head += layout.pack(*values)

    def fixed(self, data: bytes) -> None:
        """Append opaque data of a length both sides know."""
        self._head += data
        self._head += bytes(fill_bytes(len(data)))

    def uint(self, value: int) -> None:
        """Append an unsigned integer."""
        self._head += _U32.pack(value)

    def hyper(self, value: int) -> None:
        """Append an unsigned hyper integer."""
        self._head += _U64.pack(value)

    def boolean(self, value: bool) -> None:
        """Append a boolean."""
        self.uint(int(value))

    def opaque(self, data: bytes) -> None:
        """Append opaque data behind its length."""
        self.uint(len(data))
        self.fixed(data)

    def string(self, text: str) -> None:
        """Append a string."""
        self.opaque(text.encode("utf-8", "surrogateescape"))

    def payload(self, payload: Payload) -> None:
        """Append data by reference behind its length."""
        size_bytes = payload.size_bytes
        self.uint(size_bytes)
        self._flush()
        self._chunks.append(payload)
        self._head += bytes(fill_bytes(size_bytes))

    def chunks(self) -> list[Chunk]:
        """Return the message."""
        self._flush()
        return list(self._chunks)

    def _flush(self) -> None:
        if self._head:
            self._chunks.append(bytes(self._head))
            self._head.clear()
