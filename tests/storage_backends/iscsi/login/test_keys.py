"""Login text and what two offers of a key become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.iscsi.login.keys import (
    KEYS,
    RFC_DEFAULTS,
    LoginOffer,
    Rule,
    Value,
    parameters_of,
    pull_text,
    pull_value,
    push_text,
    push_value,
    result_of,
)
from storage_backends.wire import RemoteProtocolError

NAMES = st.text("ABCxyz", min_size=1)


def values_of(name: str) -> st.SearchStrategy[Value]:
    """Draw values of one key."""
    key = KEYS[name]
    if key.rule in (Rule.AND, Rule.OR):
        return st.booleans()
    if key.rule is Rule.FIRST_OF_LIST:
        return st.permutations(["None", "CRC32C"]).flatmap(lambda p: st.integers(1, 2).map(lambda n: tuple(p[:n])))
    return st.integers(key.low, key.high)


def test_text_is_pairs_ended_by_nul() -> None:
    """Pairs are written as RFC 7143 6.1 asks."""
    assert push_text({"InitialR2T": "No", "MaxBurstLength": "512"}) == b"InitialR2T=No\0MaxBurstLength=512\0"


@given(st.dictionaries(NAMES, st.text("abc,=1", max_size=9)))
def test_text_round_trips(pairs: dict[str, str]) -> None:
    """Any pairs survive, also with an equals sign in the value."""
    assert pull_text(push_text(pairs)) == pairs


def test_padding_between_pairs_is_harmless() -> None:
    """More than one NUL after a pair is no pair."""
    assert pull_text(b"A=1\0\0\0") == {"A": "1"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"A=1", "login text does not end in NUL"),
        (b"A\0", "login text 'A' is no key=value"),
        (b"A=1\0A=2\0", "login key A is given twice"),
    ],
)
def test_text_that_is_no_pairs_is_named(data: bytes, message: str) -> None:
    """Text that breaks 6.1 says how."""
    with pytest.raises(RemoteProtocolError, match=message):
        pull_text(data)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("InitialR2T", "yes", "InitialR2T=yes is neither Yes nor No"),
        ("MaxBurstLength", "many", "MaxBurstLength=many is no number"),
        ("MaxBurstLength", "511", "MaxBurstLength=511 is not between 512 and 16777215"),
        ("ErrorRecoveryLevel", "3", "ErrorRecoveryLevel=3 is not between 0 and 2"),
    ],
)
def test_values_that_cannot_be_are_named(name: str, text: str, message: str) -> None:
    """A value outside its key's range names both."""
    with pytest.raises(RemoteProtocolError, match=message):
        pull_value(name, text)


def test_numbers_may_be_hexadecimal() -> None:
    """A number is decimal or, with 0x, hexadecimal (6.1)."""
    assert pull_value("MaxBurstLength", "0x200") == 512


@given(st.data())
def test_values_round_trip(data: st.DataObject) -> None:
    """Every value of every key survives its text."""
    name = data.draw(st.sampled_from(sorted(KEYS)))
    value = data.draw(values_of(name))
    assert pull_value(name, push_value(value)) == value


@pytest.mark.parametrize(
    ("name", "offered", "accepted", "result"),
    [
        ("ImmediateData", True, True, True),
        ("ImmediateData", True, False, False),
        ("InitialR2T", False, True, True),
        ("InitialR2T", False, False, False),
        ("MaxBurstLength", 1024, 4096, 1024),
        ("DefaultTime2Wait", 2, 5, 5),
        ("DefaultTime2Retain", 20, 0, 0),
        ("HeaderDigest", ("CRC32C", "None"), ("None", "CRC32C"), ("CRC32C",)),
        ("HeaderDigest", ("CRC32C",), ("None",), None),
        ("MaxRecvDataSegmentLength", 8192, 512, 512),
    ],
)
def test_result_functions_of_the_rfc(name: str, offered: Value, accepted: Value, result: Value | None) -> None:
    """Each key becomes what the RFC's result function makes of both values."""
    assert result_of(name, offered, accepted) == result


@given(st.data())
def test_a_result_is_one_its_offer_allows(data: st.DataObject) -> None:
    """What comes out would come out again: so an initiator can tell a result its offer does not allow."""
    name = data.draw(st.sampled_from(sorted(KEYS)))
    offered, accepted = data.draw(values_of(name)), data.draw(values_of(name))
    result = result_of(name, offered, accepted)
    if result is not None:
        assert result_of(name, offered, result) == result


def test_an_offer_outside_a_range_is_refused() -> None:
    """A configuration that could not be negotiated names its key."""
    with pytest.raises(ValueError, match="MaxBurstLength=100 is not between 512 and 16777215"):
        LoginOffer(max_burst_length=100)


def test_keys_nobody_mentioned_have_their_default() -> None:
    """Without a word about any key both sides follow the RFC's defaults."""
    parameters = parameters_of({}, max_recv_data_length=512)
    assert parameters.max_recv_data_length == 512
    assert parameters.max_xmit_data_length == RFC_DEFAULTS.max_recv_data_length == 8192
    assert (parameters.first_burst_length, parameters.max_burst_length) == (65536, 262144)
    assert parameters.initial_r2t
    assert parameters.immediate_data
    assert not parameters.header_digest


def test_the_first_burst_is_part_of_a_burst() -> None:
    """FirstBurstLength never exceeds MaxBurstLength, though the two are negotiated apart (13.14)."""
    parameters = parameters_of({"FirstBurstLength": 65536, "MaxBurstLength": 4096}, max_recv_data_length=8192)
    assert parameters.first_burst_length == 4096
