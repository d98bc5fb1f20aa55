"""Numbers and words read many at a time, held against Python's own reading."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netvm.report.digits import Chunk

_WORDS = st.lists(st.text(st.sampled_from("0123456789-abcdefxXZ:/ é"), min_size=0, max_size=24), min_size=1)


def _chunk(words: list[str]) -> tuple[Chunk, np.ndarray, np.ndarray]:  # type: ignore[type-arg]  # any integers do
    """Return the words one after another with a bar between them, and where they begin and end."""
    chunk = Chunk(("|".join(words) + "|").encode())
    ends = chunk.find(b"|")
    starts = np.concatenate([np.array([ends[0] - len(words[0].encode())]), ends[:-1] + 1])
    return chunk, starts, ends


@given(_WORDS)
def test_integers(words: list[str]) -> None:
    """Exactly what is a minus sign or none and ASCII digits is read, with its value."""
    chunk, starts, ends = _chunk(words)
    values, good = chunk.integers(starts, ends)
    for word, value, well in zip(words, values.tolist(), good.tolist(), strict=True):
        digits = word.removeprefix("-")
        right = digits.isascii() and digits.isdigit() and len(digits) <= 20
        assert well == right, word
        if right and abs(int(word)) < 2**63:
            assert value == int(word)


@given(st.lists(st.text(st.sampled_from("0123456789abcdefABCDEFg@`/:G"), min_size=0, max_size=18), min_size=1))
def test_hexadecimals(words: list[str]) -> None:
    """Exactly what is hexadecimal digits, at most sixteen, is read, with or without 0x."""
    for prefix in ("", "0x"):
        chunk, starts, ends = _chunk([prefix + word for word in words])
        values, good = chunk.hexadecimals(starts, ends)
        for word, value, well in zip(words, values.tolist(), good.tolist(), strict=True):
            right = 0 < len(word) <= 16 and all(c in "0123456789abcdefABCDEF" for c in word)
            assert well == right, word
            if right:
                assert value % 2**64 == int(word, 16)


@given(_WORDS, _WORDS)
def test_hashes_tell_words_apart(some: list[str], others: list[str]) -> None:
    """Equal words have equal hashes, whatever stands beside them, and different words different ones."""
    chunk, starts, ends = _chunk(some)
    first = dict(zip(some, chunk.hashes(starts, ends).tolist(), strict=True))
    chunk, starts, ends = _chunk([*others, *some])
    both = dict(zip([*others, *some], chunk.hashes(starts, ends).tolist(), strict=True))
    assert first.items() <= both.items()
    assert len(set(both.values())) == len(both)


@given(_WORDS)
def test_find_first(words: list[str]) -> None:
    """The first colon at or after each place is found, if it is near."""
    chunk, starts, _ = _chunk(words)
    found = chunk.find_first(starts, b":", words_max=3)
    for start, place in zip(starts.tolist(), found.tolist(), strict=True):
        assert place == chunk.data.find(b":", start, start + 24)


def test_prefixes_and_suffixes() -> None:
    """A key is recognized by the bytes before its equals sign, at most eight of them."""
    chunk, starts, ends = _chunk([" nr_scanned", " nr_taken", "scanned"])
    assert chunk.ends_with(ends, b" nr_scanned").tolist() == [True, False, False]
    assert chunk.ends_with(ends, b"scanned").tolist() == [True, False, True]
    assert chunk.starts_with(starts, b" nr").tolist() == [True, True, False]
