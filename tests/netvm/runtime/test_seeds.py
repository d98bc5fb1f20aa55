"""Chance: the same for ever, bounded, and each stream its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.runtime.seeds import Seeds, Stream

SEEDS = st.integers(0, (1 << 64) - 1)


def test_the_generator_is_splitmix64() -> None:
    """The first numbers of the published reference implementation for the state 1234567."""
    stream = Stream(1234567)
    assert [stream.next_u64() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(
    ("seed", "name", "first"),
    [
        (0, "oracle", 0xBACC1B0C37AFEF1B),
        (1, "oracle", 0x2879C0AF01D7B2B3),
        (0, "link0.loss", 0xBD3292AF5182F0C8),
        (1, "link0.loss", 0xC07657F4AE0D51F8),
    ],
)
def test_streams_are_the_same_for_ever(seed: int, name: str, first: int) -> None:
    """A recorded seed means the same run with any later version: these numbers may not change."""
    assert Seeds(seed).stream(name).next_u64() == first


@given(SEEDS, st.text(max_size=20))
def test_a_name_gives_the_same_stream_again(seed: int, name: str) -> None:
    """A stream depends on seed and name only, not on who asked before."""
    seeds = Seeds(seed)
    first = [seeds.stream(name).next_u64() for _ in range(2)]
    seeds.stream("another").next_u64()
    assert first == [Seeds(seed).stream(name).next_u64()] * 2


def test_streams_share_no_numbers() -> None:
    """Neighbouring seeds and similar names are unrelated: no stream is another one, shifted."""
    drawn = []
    for seed in range(40):
        for name in ("oracle", "link0.loss", "link1.loss"):
            stream = Seeds(seed).stream(name)
            drawn += [stream.next_u64() for _ in range(50)]
    assert len(set(drawn)) == len(drawn) == 40 * 3 * 50


@given(SEEDS, st.integers(1, (1 << 40) - 1))
def test_below_stays_below(seed: int, bound: int) -> None:
    """Any bound: numbers from 0 to it, without it."""
    stream = Stream(seed)
    assert all(0 <= stream.below(bound) < bound for _ in range(20))


def test_below_reaches_every_number() -> None:
    """Each of a few numbers comes about equally often."""
    stream = Seeds(7).stream("dice")
    counts = [0] * 6
    for _ in range(6000):
        counts[stream.below(6)] += 1
    assert all(900 < count < 1100 for count in counts)


@pytest.mark.parametrize("bound", [0, -1, 1 << 40])
def test_below_refuses_what_it_cannot_draw_from(bound: int) -> None:
    """Nothing is below zero, and too large a bound would be biased."""
    with pytest.raises(AssertionError):
        Stream(0).below(bound)


@given(SEEDS)
def test_uniform_is_less_than_one(seed: int) -> None:
    """From zero to one, without one."""
    stream = Stream(seed)
    assert all(0.0 <= stream.uniform() < 1.0 for _ in range(20))


def test_the_largest_uniform_number_is_less_than_one() -> None:
    """Also where all bits are set."""

    class AllOnes(Stream):
        def next_u64(self) -> int:
            return (1 << 64) - 1

    assert AllOnes(0).uniform() < 1.0
    assert AllOnes(0).below(6) == 5


def test_no_chance_draws_nothing() -> None:
    """What is switched off does not move the numbers of what comes after; certainty is certain."""
    stream, other = Stream(5), Stream(5)
    assert not any(stream.chance(0.0) for _ in range(10))
    assert stream.next_u64() == other.next_u64()
    assert all(stream.chance(1.0) for _ in range(100))


def test_chance_is_as_likely_as_it_says() -> None:
    """A tenth of the time, within what ten thousand draws can tell."""
    stream = Seeds(3).stream("loss")
    assert 900 < sum(stream.chance(0.1) for _ in range(10_000)) < 1100
