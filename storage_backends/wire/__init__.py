"""What travels on an emulated wire: real bytes for headers, payload by reference.

A stream is a sequence of *chunks*. A chunk is ``bytes`` (a header, exactly as the RFC writes it) or a :class:`Payload`,
which stands for data that nobody needs to look at: it has a size, can be cut, and becomes bytes only on a real socket
or in a capture. The payload of this project is :class:`Blocks`: a run of 4 KiB blocks, each known by the *version* of
its content, so that a store can say which write it holds and a lost or stale write is seen.

The rendering of a block is its version as a little-endian 64-bit word, repeated; version 0 is a block of zeros, a block
never written.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["BLOCK_SIZE", "Blocks", "Chunk", "ChunkBuffer", "Payload", "render"]

BLOCK_SIZE = 4096
_WORD = 8


class Payload(Protocol):
    """Data by reference."""

    @property
    def size_bytes(self) -> int:
        """Length on the wire."""
        ...

    def part(self, start: int, stop: int) -> "Payload":
        """Return bytes ``start`` to ``stop`` of it, still by reference."""
        ...

    def to_bytes(self) -> bytes:
        """Return the bytes a real wire would carry."""
        ...


Chunk: TypeAlias = bytes | Payload
"""One element of a stream."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """``size_bytes`` of a run of 4 KiB blocks, beginning ``skip_bytes`` into the first."""

    versions: tuple[int, ...]
    """Content version of each block touched, in order."""
    skip_bytes: int
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
        first, skip = divmod(self.skip_bytes + start, BLOCK_SIZE)
        last = -(-(self.skip_bytes + stop) // BLOCK_SIZE)
        return Blocks(self.versions[first:last], skip if stop > start else 0, stop - start)

    def to_bytes(self) -> bytes:
        """Return the rendering."""
        whole = b"".join(v.to_bytes(_WORD, "little") * (BLOCK_SIZE // _WORD) for v in self.versions)
        return whole[self.skip_bytes : self.skip_bytes + self.size_bytes]


def render(chunks: list[Chunk]) -> bytes:
    """Return what a real wire would carry for these chunks."""
    return b"".join(c if isinstance(c, bytes) else c.to_bytes() for c in chunks)


class ChunkBuffer:
    """Chunks received and not yet consumed: the inlet of every protocol core.

    Headers are pulled as bytes and payload by reference, however the stream was cut on its way.
    """

    __slots__ = ("_chunks", "size_bytes")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        # invariant: the sum of the sizes of the chunks
        self.size_bytes = 0

    def push(self, chunk: Chunk) -> None:
        """Append one chunk; empty ones vanish."""
        size = len(chunk) if isinstance(chunk, bytes) else chunk.size_bytes
        if size:
            self._chunks.append(chunk)
            self.size_bytes += size

    def pull_bytes(self, size_bytes: int) -> bytes | None:
        """Consume exactly ``size_bytes`` as bytes, or nothing and return None while fewer have arrived."""
        taken = self.pull(size_bytes)
        return None if taken is None else render(taken)

    def pull(self, size_bytes: int) -> list[Chunk] | None:
        """Consume exactly ``size_bytes`` as chunks, or nothing and return None while fewer have arrived."""
        if self.size_bytes < size_bytes:
            return None
        taken: list[Chunk] = []
        left = size_bytes
        used = 0
        for chunk in self._chunks:
            if not left:
                break
            size = len(chunk) if isinstance(chunk, bytes) else chunk.size_bytes
            if size <= left:
                taken.append(chunk)
                left -= size
                used += 1
                continue
            if isinstance(chunk, bytes):
                taken.append(chunk[:left])
                self._chunks[used] = chunk[left:]
            else:
                taken.append(chunk.part(0, left))
                self._chunks[used] = chunk.part(left, size)
            left = 0
        del self._chunks[:used]
        self.size_bytes -= size_bytes
        assert left == 0
        assert self.size_bytes >= 0
        return taken
