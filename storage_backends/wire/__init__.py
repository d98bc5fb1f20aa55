"""What travels on an emulated wire: real bytes for headers, payload by reference.

A stream is a sequence of *chunks*. A chunk is ``bytes`` (a header, exactly as the RFC writes it) or a :class:`Payload`,
which stands for data that nobody needs to look at: it has a size, can be cut, and becomes bytes only on a real socket
or in a capture. The payload of this project is :class:`Blocks`: a run of 4 KiB blocks, each known by the *version* of
its content, so that a store can say which write it holds and a lost or stale write is seen. Data from a real socket is
:class:`Octets`.

The rendering of a block is its version as a little-endian 64-bit word, repeated; version 0 is a block of zeros, a block
never written.

A transport may cut a stream anywhere and deliver the parts one by one. :class:`ChunkBuffer` takes them in, hands out
headers as bytes and payload by reference, and :func:`join` puts the parts of a payload together again: the core behind
it never sees how the stream was cut. A pull that must wait says how many bytes it lacks, which is what a receiver that
reads exactly the next header or the next payload (as ``recv_work`` of drivers/block/nbd.c does) asks its socket for.

Both protocols blame in the type of the exception: :class:`LocalProtocolError` is a caller that used a core against its
protocol, :class:`RemoteProtocolError` is a peer whose bytes break it; the connection is then of no further use.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

__all__ = [
    "BLOCK_SIZE",
    "Blocks",
    "Chunk",
    "ChunkBuffer",
    "LocalProtocolError",
    "Octets",
    "Payload",
    "ProtocolError",
    "RemoteProtocolError",
    "join",
    "render",
    "size_of",
]

BLOCK_SIZE = 4096
_WORD = 8


class ProtocolError(Exception):
    """A protocol was broken; the subclass says by whom."""


class LocalProtocolError(ProtocolError):
    """Our side asked its core for something the protocol does not allow now; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow; the connection cannot go on."""


class Payload(Protocol):
    """Data by reference."""

    @property
    def size_bytes(self) -> int:
        """Length on the wire."""
        ...

    def part(self, start: int, stop: int) -> "Payload":
        """Return bytes ``start`` to ``stop`` of it, still by reference. Raises ValueError outside it."""
        ...

    def to_bytes(self) -> bytes:
        """Return the bytes a real wire would carry."""
        ...


Chunk: TypeAlias = bytes | Payload
"""One element of a stream."""


class Blocks(NamedTuple):
    """``size_bytes`` of a run of 4 KiB blocks, beginning ``skip_bytes`` into the first.

    A tuple and not a frozen dataclass because one is made for every segment that carries payload.
    """

    versions: tuple[int, ...]
    """Content version of each block touched, in order."""
    skip_bytes: int
    """Below :data:`BLOCK_SIZE`."""
    size_bytes: int

    @classmethod
    def of(cls, versions: tuple[int, ...]) -> "Blocks":
        """Return whole blocks with these content versions."""
        return cls(versions, 0, len(versions) * BLOCK_SIZE)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Blocks":
        """Recover whole blocks from their rendering.

        Raises ValueError if ``data`` is not whole blocks or a block is not one word repeated.
        """
        if len(data) % BLOCK_SIZE:
            raise ValueError(f"{len(data)} bytes are not whole blocks of {BLOCK_SIZE}")
        versions = []
        for start in range(0, len(data), BLOCK_SIZE):
            word = data[start : start + _WORD]
            if data[start : start + BLOCK_SIZE] != word * (BLOCK_SIZE // _WORD):
                raise ValueError(f"the block at byte {start} is not one 64-bit word repeated")
            versions.append(int.from_bytes(word, "little"))
        return cls.of(tuple(versions))

    def part(self, start: int, stop: int) -> "Blocks":
        """Return bytes ``start`` to ``stop`` of this run. Raises ValueError outside it."""
        if not 0 <= start <= stop <= self.size_bytes:
            raise ValueError(f"part {start}..{stop} of a payload of {self.size_bytes} bytes")
        if stop - start == self.size_bytes:
            return self
        if start == stop:
            return Blocks((), 0, 0)
        first, skip = divmod(self.skip_bytes + start, BLOCK_SIZE)
        last = -(-(self.skip_bytes + stop) // BLOCK_SIZE)
        return Blocks(self.versions[first:last], skip, stop - start)

    def to_bytes(self) -> bytes:
        """Return the rendering."""
        whole = b"".join(v.to_bytes(_WORD, "little") * (BLOCK_SIZE // _WORD) for v in self.versions)
        return whole[self.skip_bytes : self.skip_bytes + self.size_bytes]


class Octets(NamedTuple):
    """Payload that is already bytes: what a real peer sent."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """Length on the wire."""
        return len(self.data)

    def part(self, start: int, stop: int) -> "Octets":
        """Return bytes ``start`` to ``stop``. Raises ValueError outside them."""
        if not 0 <= start <= stop <= len(self.data):
            raise ValueError(f"part {start}..{stop} of a payload of {len(self.data)} bytes")
        return Octets(self.data[start:stop])

    def to_bytes(self) -> bytes:
        """Return the bytes."""
        return self.data


def size_of(chunk: Chunk) -> int:
    """Return the length of a chunk on the wire."""
    return len(chunk) if isinstance(chunk, bytes) else chunk.size_bytes


def render(chunks: Sequence[Chunk]) -> bytes:
    """Return what a real wire would carry for these chunks."""
    return b"".join(c if isinstance(c, bytes) else c.to_bytes() for c in chunks)


def join(chunks: Sequence[Chunk]) -> Payload:
    """Return one payload for chunks that follow each other.

    Neighbouring parts of :class:`Blocks` become one run again, however they were cut. Anything else (bytes of a real
    socket, or two writes that met inside one block) keeps its bytes as :class:`Octets`, so nothing is ever made up.
    """
    if len(chunks) == 1 and not isinstance(chunks[0], bytes):
        return chunks[0]
    blocks = _join_blocks(chunks)
    return Octets(render(chunks)) if blocks is None else blocks


def _join_blocks(chunks: Sequence[Chunk]) -> Blocks | None:
    """Return the run these parts make up, or None if they are not parts of one."""
    if not chunks or not isinstance(chunks[0], Blocks):
        return None
    versions = list(chunks[0].versions)
    end = chunks[0].skip_bytes + chunks[0].size_bytes
    for chunk in chunks[1:]:
        if not isinstance(chunk, Blocks) or (end - chunk.skip_bytes) % BLOCK_SIZE:
            return None
        if not chunk.skip_bytes:
            versions.extend(chunk.versions)
        elif chunk.versions[0] == versions[-1]:
            versions.extend(chunk.versions[1:])
        else:
            return None
        end += chunk.size_bytes
    return Blocks(tuple(versions), chunks[0].skip_bytes, end - chunks[0].skip_bytes)


class ChunkBuffer:
    """Chunks received and not yet consumed: the inlet of every protocol core.

    Headers are pulled as bytes and payload by reference, however the stream was cut on its way.
    """

    __slots__ = ("_chunks", "bytes_missing", "size_bytes")

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        # invariant: the sum of the sizes of the chunks
        self.size_bytes = 0
        # invariant: what the last refused pull lacked when it was refused, less what was pushed since; never negative
        self.bytes_missing = 0

    def push(self, chunk: Chunk) -> None:
        """Append one chunk; empty ones vanish."""
        size = len(chunk) if isinstance(chunk, bytes) else chunk.size_bytes
        if size:
            self._chunks.append(chunk)
            self.size_bytes += size
            missing = self.bytes_missing
            if missing:
                self.bytes_missing = missing - size if missing > size else 0

    def pull_bytes(self, size_bytes: int) -> bytes | None:
        """Consume exactly ``size_bytes`` as bytes, or nothing and return None while fewer have arrived."""
        taken = self.pull(size_bytes)
        if taken is None:
            return None
        if len(taken) == 1 and isinstance(taken[0], bytes):
            return taken[0]
        return render(taken)

    def peek_bytes(self, size_bytes: int) -> bytes | None:
        """Return the next ``size_bytes`` without consuming them, or None while fewer have arrived."""
        head = self.pull_bytes(size_bytes)
        if head:
            self._chunks.appendleft(head)
            self.size_bytes += len(head)
        return head

    def pull_payload(self, size_bytes: int) -> Payload | None:
        """Consume exactly ``size_bytes`` as one payload, or nothing and return None while fewer have arrived."""
        taken = self.pull(size_bytes)
        return None if taken is None else join(taken)

    def pull(self, size_bytes: int) -> list[Chunk] | None:
        """Consume exactly ``size_bytes`` as chunks, or nothing and return None while fewer have arrived."""
        if self.size_bytes < size_bytes:
            self.bytes_missing = size_bytes - self.size_bytes
            return None
        self.size_bytes -= size_bytes
        chunks = self._chunks
        taken: list[Chunk] = []
        if size_bytes and size_of(chunks[0]) == size_bytes:
            # the common case: a header or a payload arrived as it was sent
            taken.append(chunks.popleft())
            return taken
        left = size_bytes
        while left:
            chunk = chunks.popleft()
            size = len(chunk) if isinstance(chunk, bytes) else chunk.size_bytes
            if size > left:
                if isinstance(chunk, bytes):
                    taken.append(chunk[:left])
                    chunks.appendleft(chunk[left:])
                else:
                    taken.append(chunk.part(0, left))
                    chunks.appendleft(chunk.part(left, size))
                break
            taken.append(chunk)
            left -= size
        assert self.size_bytes >= 0
        return taken
