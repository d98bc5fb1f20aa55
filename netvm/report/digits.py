"""Numbers and words out of text, for thousands of lines at once.

A chunk of text is looked at as an array of bytes and, at the same time, as an overlapping array of 8-byte words
(``words[i]`` is what stands at byte ``i``). A decimal of up to eight digits is then one load, one mask and three
multiplications for all lines together: SIMD within a register, as in Lemire's *Quickly parsing eight digits* (2022).
Longer numbers take a second word; what is longer still is read one at a time.

All offsets are byte positions in the chunk; a chunk is padded on both sides so that no load leaves it.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["PAD", "Chunk"]

PAD: Final = 64
"""Bytes of padding on either side of a chunk."""

_U64 = np.uint64
_ZEROS: Final = _U64(0x3030303030303030)
_SPACES: Final = _U64(0x2020202020202020)
_ABOVE_9: Final = _U64(0x7676767676767676)
_HIGH_BITS: Final = _U64(0x8080808080808080)
_PAIRS: Final = _U64(0x000000FF000000FF)
_MUL_1: Final = _U64(0x000F424000000064)
_MUL_2: Final = _U64(0x0000271000000001)
_FULL: Final = _U64(0xFFFFFFFFFFFFFFFF)
_HASH_1: Final = _U64(0x9E3779B97F4A7C15)
_HASH_2: Final = _U64(0xC2B2AE3D27D4EB4F)
_SHIFT_29: Final = _U64(29)
_KEEP_LAST: Final = np.array(
    [0 if n == 0 else (0xFFFFFFFFFFFFFFFF << (8 - n) * 8) & (2**64 - 1) for n in range(9)], _U64
)
"""By n: the mask of the last n bytes of a word."""
_KEEP_FIRST: Final = np.array([(1 << n * 8) - 1 for n in range(8)] + [2**64 - 1], dtype=_U64)
"""By n: the mask of the first n bytes of a word."""

Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


class Chunk:
    """A piece of text, as bytes and as words."""

    __slots__ = ("bytes", "data", "words")

    def __init__(self, text: bytes) -> None:
        self.data = b"\n" * PAD + text + b"\n" * PAD
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self.data, dtype=np.uint8)
        self.words: Words = np.ndarray(shape=(len(self.data) - 7,), dtype="<u8", buffer=self.data, strides=(1,))

    def find(self, character: bytes) -> Offsets:
        """Return every position of one character between the paddings."""
        found = np.flatnonzero(self.bytes[PAD : len(self.data) - PAD] == character[0])
        found += PAD
        return found

    def text(self, start: int, end: int) -> str:
        """Return the text of a span; what is not UTF-8 is escaped."""
        return self.data[start:end].decode("utf-8", "backslashreplace")

    def starts_with(self, start: Offsets, prefix: bytes) -> Mask:
        """Say of each position whether up to eight bytes stand there."""
        want = _U64(int.from_bytes(prefix, "little"))
        found: Mask = (self.words[start] & _KEEP_FIRST[len(prefix)]) == want
        return found

    def ends_with(self, end: Offsets, suffix: bytes) -> Mask:
        """Say of each position whether the bytes before it end in ``suffix`` (its last eight bytes count)."""
        suffix = suffix[-8:]
        want = _U64(int.from_bytes(suffix, "little") << (8 - len(suffix)) * 8)
        found: Mask = (self.words[end - 8] & _KEEP_LAST[len(suffix)]) == want
        return found

    def blank(self, start: Offsets, end: Offsets) -> Mask:
        """Say of each span of up to eight bytes whether it is all spaces."""
        length = end - start
        kept = _KEEP_LAST[np.minimum(length, 8)]
        found: Mask = ((self.words[end - 8] ^ _SPACES) & kept == 0) & (length > 0)
        return found

    def naturals(self, start: Offsets, end: Offsets) -> tuple[npt.NDArray[np.int64], Mask]:
        """Return the decimals between ``start`` and ``end``, and which of them are nothing but digits."""
        length = end - start
        values, good = self._eight(end, np.minimum(np.maximum(length, 0), 8))
        good &= length > 0
        long = np.flatnonzero(length > 8)
        if len(long):
            high, also = self._eight(end[long] - 8, np.clip(length[long] - 8, 0, 8))
            values[long] += high * 100_000_000
            good[long] &= also
            for row in np.flatnonzero(length > 16).tolist():
                digits = self.data[int(start[row]) : int(end[row])]
                good[row] = digits.isdigit() and len(digits) <= 20
                values[row] = min(int(digits), 2**63 - 1) if good[row] else 0
        return values, good

    def integers(self, start: Offsets, end: Offsets) -> tuple[npt.NDArray[np.int64], Mask]:
        """Return the decimals between ``start`` and ``end``, a minus sign allowed, and which are well-formed."""
        negative = self.bytes[start] == ord("-")
        if not negative.any():
            return self.naturals(start, end)
        values, good = self.naturals(start + negative, end)
        return np.where(negative, -values, values), good

    def hexadecimals(self, start: Offsets, end: Offsets) -> tuple[npt.NDArray[np.int64], Mask]:
        """Return the hexadecimal numbers between ``start`` and ``end`` (``0x`` or not), and which are well-formed."""
        prefixed = self.starts_with(start, b"0x")
        start = start + 2 * prefixed
        length = end - start
        good = (length > 0) & (length <= 16)
        values = np.zeros(len(start), dtype=_U64)
        # one digit at a time: every line has about as many
        for place in range(int(length[good].max()) if good.any() else 0):
            here = good & (place < length)
            digit = self.bytes[np.where(here, end - 1 - place, 0)].astype(np.int16)
            letter = (digit | 0x20) - ord("a") + 10
            value = np.where(digit <= ord("9"), digit - ord("0"), letter)
            good &= ~here | ((value >= 0) & (value < 16) & ((digit <= ord("9")) | (letter >= 10)))
            values |= np.where(here, value, 0).astype(_U64) << _U64(4 * place)
        return values.view(np.int64), good

    def _eight(self, end: Offsets, length: Offsets) -> tuple[npt.NDArray[np.int64], Mask]:
        """Return the decimals of up to eight digits that end at ``end``."""
        word = (self.words[end - 8] ^ _ZEROS) & _KEEP_LAST[length]
        good = ((word + _ABOVE_9) | word) & _HIGH_BITS == 0
        word = word * _U64(10) + (word >> _U64(8))
        word = ((word & _PAIRS) * _MUL_1 + ((word >> _U64(16)) & _PAIRS) * _MUL_2) >> _U64(32)
        return word.astype(np.int64), good

    def hashes(self, start: Offsets, end: Offsets) -> Words:
        """Return a 64-bit hash of each span; equal spans have equal hashes."""
        length = end - start
        value: Words = length.astype(_U64) * _HASH_2
        shortest, longest = (int(length.min()), int(length.max())) if len(length) else (0, 0)
        offset = 0
        while offset < shortest:
            value = _mixed(value, self.words[start + offset] & _KEEP_FIRST[np.minimum(length - offset, 8)])
            offset += 8
        while offset < longest:
            rows = np.flatnonzero(length > offset)
            kept = _KEEP_FIRST[np.minimum(length[rows] - offset, 8)]
            value[rows] = _mixed(value[rows], self.words[start[rows] + offset] & kept)
            offset += 8
        return value

    def find_first(self, start: Offsets, character: bytes, *, words_max: int) -> Offsets:
        """Return the first position of a character at or after each ``start``, -1 if not within ``words_max`` words."""
        pattern = _U64(int.from_bytes(character * 8, "little"))
        ones, low = _U64(0x0101010101010101), _U64(1)
        found = np.full(len(start), -1, dtype=np.int64)
        rows = np.arange(len(start))
        for number in range(words_max):
            at = np.minimum(start[rows] + 8 * number, len(self.words) - 1)
            word = self.words[at] ^ pattern
            zero = (word - ones) & ~word & _HIGH_BITS
            hit = zero != 0
            first = zero[hit]
            place = np.bitwise_count((first & (~first + low)) - low) >> 3
            found[rows[hit]] = at[hit] + place
            rows = rows[~hit]
            if not len(rows):
                break
        return found


def _mixed(value: Words, word: Words) -> Words:
    value = (value ^ word) * _HASH_1
    value ^= value >> _SHIFT_29
    return value
