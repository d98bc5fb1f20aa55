"""The NBD codec, held against bytes written out by hand from doc/proto.md."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nbd import messages as nbd
from storage_backends.wire import ChunkBuffer, RemoteProtocolError

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)

GREETING = nbd.Greeting(flags=3)
GO = nbd.GoData(name="swap", info_types=(0, 3))
EXPORT = nbd.Export(size_bytes=0x1_0000_0000, flags=0x0D)

WIRES = {
    "greeting": (
        nbd.pull_greeting,
        nbd.push_greeting(GREETING),
        "4e42444d41474943 49484156454f5054 0003",
        GREETING,
    ),
    "client flags": (nbd.pull_client_flags, nbd.push_client_flags(3), "00000003", 3),
    "option": (
        nbd.pull_option_request,
        nbd.push_option_request(nbd.OptionRequest(option=nbd.Opt.GO, data=nbd.push_go_data(GO))),
        "49484156454f5054 00000007 0000000e 00000004 73776170 0002 0000 0003",
        nbd.OptionRequest(option=7, data=bytes.fromhex("00000004 73776170 0002 0000 0003")),
    ),
    "option reply": (
        nbd.pull_option_reply,
        nbd.push_option_reply(nbd.OptionReply(option=7, reply_type=nbd.Rep.INFO, data=nbd.push_info_export(EXPORT))),
        "0003e889045565a9 00000007 00000003 0000000c 0000 0000000100000000 000d",
        nbd.OptionReply(option=7, reply_type=3, data=bytes.fromhex("0000 0000000100000000 000d")),
    ),
    "option error": (
        nbd.pull_option_reply,
        nbd.push_option_reply(nbd.OptionReply(option=99, reply_type=nbd.Rep.ERR_UNSUP)),
        "0003e889045565a9 00000063 80000001 00000000",
        nbd.OptionReply(option=99, reply_type=0x80000001),
    ),
    "export reply": (
        partial(nbd.pull_export_reply, no_zeroes=True),
        nbd.push_export_reply(EXPORT, no_zeroes=True),
        "0000000100000000 000d",
        EXPORT,
    ),
    "export reply with zeroes": (
        partial(nbd.pull_export_reply, no_zeroes=False),
        nbd.push_export_reply(EXPORT, no_zeroes=False),
        "0000000100000000 000d" + "00" * 124,
        EXPORT,
    ),
    "request": (
        nbd.pull_request,
        nbd.push_request(nbd.Request(flags=1, cmd_type=nbd.CmdType.WRITE, cookie=0xAB, offset=0x1000, length=0x20000)),
        "25609513 0001 0001 00000000000000ab 0000000000001000 00020000",
        nbd.Request(flags=1, cmd_type=1, cookie=0xAB, offset=0x1000, length=0x20000),
    ),
    "simple reply": (
        nbd.pull_simple_reply,
        nbd.push_simple_reply(nbd.SimpleReply(error=nbd.NbdError.EIO, cookie=0xAB)),
        "67446698 00000005 00000000000000ab",
        nbd.SimpleReply(error=5, cookie=0xAB),
    ),
}


@pytest.mark.parametrize("name", WIRES)
def test_pushed_bytes_are_the_protocols(name: str) -> None:
    """Each message is exactly the bytes proto.md writes down."""
    _, pushed, written_out, _ = WIRES[name]
    assert pushed == bytes.fromhex(written_out)


@pytest.mark.parametrize("name", WIRES)
def test_messages_are_pulled_however_they_arrive(name: str, check_pull: Callable[..., None]) -> None:
    """Each message is read whole, byte by byte, and with the next one behind it."""
    pull, pushed, _, expected = WIRES[name]
    check_pull(pull, pushed, expected)


def test_headers_have_their_known_lengths() -> None:
    """A request is 28 bytes and a simple reply 16: what the kernel's client sends and receives."""
    assert len(WIRES["request"][1]) == 28
    assert len(WIRES["simple reply"][1]) == 16


@given(U16, U16, U64, U64, U32)
def test_requests_round_trip(flags: int, cmd_type: int, cookie: int, offset: int, length: int) -> None:
    """Every field value of a request survives."""
    request = nbd.Request(flags=flags, cmd_type=cmd_type, cookie=cookie, offset=offset, length=length)
    buffer = ChunkBuffer()
    buffer.push(nbd.push_request(request))
    assert nbd.pull_request(buffer) == request


@given(U32, U64)
def test_simple_replies_round_trip(error: int, cookie: int) -> None:
    """Every field value of a reply survives."""
    buffer = ChunkBuffer()
    buffer.push(nbd.push_simple_reply(nbd.SimpleReply(error=error, cookie=cookie)))
    assert nbd.pull_simple_reply(buffer) == nbd.SimpleReply(error=error, cookie=cookie)


@given(U32, U32, st.binary(max_size=40))
def test_options_and_replies_round_trip(option: int, reply_type: int, data: bytes) -> None:
    """Options and their replies carry any data."""
    buffer = ChunkBuffer()
    buffer.push(nbd.push_option_request(nbd.OptionRequest(option=option, data=data)))
    buffer.push(nbd.push_option_reply(nbd.OptionReply(option=option, reply_type=reply_type, data=data)))
    assert nbd.pull_option_request(buffer) == nbd.OptionRequest(option=option, data=data)
    assert nbd.pull_option_reply(buffer) == nbd.OptionReply(option=option, reply_type=reply_type, data=data)


@given(st.text(max_size=20), st.lists(U16, max_size=5))
def test_go_data_round_trips(name: str, info_types: list[int]) -> None:
    """A name of any characters and any information types survive."""
    go = nbd.GoData(name=name, info_types=tuple(info_types))
    assert nbd.pull_go_data(nbd.push_go_data(go)) == go


@given(U64, U16)
def test_exports_round_trip(size_bytes: int, flags: int) -> None:
    """Both ways to say what an export is carry any size and flags."""
    export = nbd.Export(size_bytes=size_bytes, flags=flags)
    assert nbd.pull_info_export(nbd.push_info_export(export)) == export
    for no_zeroes in (True, False):
        buffer = ChunkBuffer()
        buffer.push(nbd.push_export_reply(export, no_zeroes=no_zeroes))
        assert nbd.pull_export_reply(buffer, no_zeroes=no_zeroes) == export
        assert buffer.size_bytes == 0


@pytest.mark.parametrize("data", [b"", b"\0\0\0", bytes.fromhex("00000005 6162"), bytes.fromhex("00000000 0002 0000")])
def test_go_data_whose_lengths_do_not_add_up_is_none(data: bytes) -> None:
    """Data a server answers with NBD_REP_ERR_INVALID is recognised."""
    assert nbd.pull_go_data(data) is None


@pytest.mark.parametrize(
    ("pull", "written_out", "message"),
    [
        (nbd.pull_greeting, "4e42444d41474944 49484156454f5054 0003", "greeting begins with 0x4e42444d41474944"),
        (nbd.pull_greeting, "4e42444d41474943 0000420281861253 0003", "newstyle greeting begins with 0x420281861253"),
        (nbd.pull_option_request, "49484156454f5055 00000007 00000000", "option begins with 0x49484156454f5055"),
        (nbd.pull_option_request, "49484156454f5054 00000007 00010001", "option 7 announces 65537 bytes"),
        (
            nbd.pull_option_reply,
            "0003e889045565aa 00000007 00000001 00000000",
            "reply begins with 0x3e889045565aa",
        ),
        (nbd.pull_option_reply, "0003e889045565a9 00000007 00000001 ffffffff", "option reply 7 announces 4294967295"),
        (nbd.pull_request, "25609514" + "00" * 24, "request begins with 0x25609514, not 0x25609513"),
        (nbd.pull_simple_reply, "67446699" + "00" * 12, "simple reply begins with 0x67446699, not 0x67446698"),
    ],
)
def test_a_bad_beginning_is_named(pull: Callable[[ChunkBuffer], object], written_out: str, message: str) -> None:
    """A message that is not what it should be says which, what it has and what it should have."""
    buffer = ChunkBuffer()
    buffer.push(bytes.fromhex(written_out))
    with pytest.raises(RemoteProtocolError, match=message):
        pull(buffer)


def test_other_information_is_passed_over() -> None:
    """NBD_INFO_BLOCK_SIZE and the like are not an export, and no error."""
    assert nbd.pull_info_export(bytes.fromhex("0003 00000001 00001000 02000000")) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\0", "1 bytes has no information type"), (b"\0\0\0", "NBD_INFO_EXPORT has 3 bytes, not 12")],
)
def test_information_of_a_wrong_length_is_named(data: bytes, message: str) -> None:
    """NBD_REP_INFO that is too short for what it says is the server's fault."""
    with pytest.raises(RemoteProtocolError, match=message):
        nbd.pull_info_export(data)
