"""The client core against servers written out by hand, well and badly behaved."""

import pytest

from storage_backends.nbd import messages as nbd
from storage_backends.nbd.connection.client import NbdClientConnection, NegotiationFailed, Reply
from storage_backends.nbd.messages import Opt, Rep, TransmissionFlag
from storage_backends.nbd.state import Disconnected, Negotiated, State
from storage_backends.wire import Blocks, LocalProtocolError, RemoteProtocolError, render

SIZE = 1 << 20
FLAGS = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_TRIM
EXPORT = nbd.Export(size_bytes=SIZE, flags=FLAGS)
FIXED_GREETING = nbd.push_greeting(nbd.Greeting(flags=3))


def option_reply(option: int, reply_type: int, data: bytes = b"") -> bytes:
    """Return the bytes of a reply to an option."""
    return nbd.push_option_reply(nbd.OptionReply(option=option, reply_type=reply_type, data=data))


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """Return the bytes of a simple reply."""
    return nbd.push_simple_reply(nbd.SimpleReply(error=error, cookie=cookie))


def connected() -> NbdClientConnection:
    """Return a client that has finished its handshake."""
    client = NbdClientConnection("swap")
    client.receive(FIXED_GREETING)
    client.receive(option_reply(Opt.GO, Rep.INFO, nbd.push_info_export(EXPORT)))
    client.receive(option_reply(Opt.GO, Rep.ACK))
    client.chunks_to_send()
    return client


def test_handshake_with_go() -> None:
    """The client answers the greeting with its flags and NBD_OPT_GO, and is done when that is acknowledged."""
    client = NbdClientConnection("swap")
    assert client.chunks_to_send() == []
    assert client.bytes_wanted == 18
    assert client.receive(FIXED_GREETING) == []
    assert render(client.chunks_to_send()) == bytes.fromhex(
        "00000003 49484156454f5054 00000007 0000000a 00000004 73776170 0000"
    )
    assert client.bytes_wanted == 20
    assert client.receive(option_reply(Opt.GO, Rep.INFO, bytes.fromhex("0003 00000001 00001000 02000000"))) == []
    assert client.receive(option_reply(Opt.GO, Rep.INFO, nbd.push_info_export(EXPORT))) == []
    assert client.receive(option_reply(Opt.GO, Rep.ACK)) == [Negotiated(SIZE, FLAGS)]
    assert client.state is State.TRANSMISSION
    assert client.bytes_wanted == 16


def test_fallback_where_go_is_unknown() -> None:
    """After NBD_REP_ERR_UNSUP the export is asked for by the option that every server knows."""
    client = NbdClientConnection("swap")
    client.receive(FIXED_GREETING)
    client.chunks_to_send()
    assert client.receive(option_reply(Opt.GO, Rep.ERR_UNSUP)) == []
    assert render(client.chunks_to_send()) == bytes.fromhex("49484156454f5054 00000001 00000004 73776170")
    assert client.bytes_wanted == 10
    assert client.receive(nbd.push_export_reply(EXPORT, no_zeroes=True)) == [Negotiated(SIZE, FLAGS)]


def test_fallback_where_newstyle_is_not_fixed() -> None:
    """A server that cannot refuse options is only asked for the export, and sends its zeroes."""
    client = NbdClientConnection("swap")
    client.receive(nbd.push_greeting(nbd.Greeting(flags=0)))
    assert render(client.chunks_to_send()) == bytes.fromhex("00000000 49484156454f5054 00000001 00000004 73776170")
    assert client.bytes_wanted == 134
    assert client.receive(nbd.push_export_reply(EXPORT, no_zeroes=False)) == [Negotiated(SIZE, FLAGS)]


def test_a_refused_export_is_told_and_left() -> None:
    """A refusal is a fact with the server's reason, and the client says goodbye with NBD_OPT_ABORT."""
    client = NbdClientConnection("swap")
    client.receive(FIXED_GREETING)
    client.chunks_to_send()
    events = client.receive(option_reply(Opt.GO, Rep.ERR_UNKNOWN, b"no such export"))
    assert events == [NegotiationFailed(Rep.ERR_UNKNOWN, "no such export")]
    assert render(client.chunks_to_send()) == bytes.fromhex("49484156454f5054 00000002 00000000")
    assert client.receive(option_reply(Opt.ABORT, Rep.ACK)) == []
    assert client.state is State.CLOSED
    assert client.receive(b"anything") == []
    assert client.bytes_wanted == 0


def test_requests_are_the_protocols_bytes() -> None:
    """A request is its 28 bytes, a WRITE's payload follows by reference."""
    client = connected()
    blocks = Blocks.of((1, 2))
    assert client.write(0xA1, 4096, blocks) == [
        bytes.fromhex("25609513 0000 0001 00000000000000a1 0000000000001000 00002000"),
        blocks,
    ]
    assert client.read(0xA2, 0, 4096) == [
        bytes.fromhex("25609513 0000 0000 00000000000000a2 0000000000000000 00001000")
    ]
    assert client.flush(0xA3) == [bytes.fromhex("25609513 0000 0003 00000000000000a3 0000000000000000 00000000")]
    assert client.trim(0xA4, 0, 8192) == [
        bytes.fromhex("25609513 0000 0004 00000000000000a4 0000000000000000 00002000")
    ]
    assert client.cookies_in_flight == (0xA1, 0xA2, 0xA3, 0xA4)
    assert client.disconnect() == [bytes.fromhex("25609513 0000 0002") + bytes(20)]


def test_replies_in_any_order() -> None:
    """Replies are matched by cookie; a READ's brings its payload by reference, the others nothing."""
    client = connected()
    client.read(1, 0, 8192)
    client.write(2, 0, Blocks.of((5,)))
    assert client.receive(simple_reply(2)) == [Reply(2, 0, None)]
    assert client.receive(simple_reply(1)) == []
    blocks = Blocks.of((7, 8))
    assert client.receive(blocks) == [Reply(1, 0, blocks)]
    assert client.cookies_in_flight == ()


def test_bytes_wanted_is_the_next_header_or_payload() -> None:
    """A receiver that asks for no more than this never reads beyond what it can use."""
    client = connected()
    client.read(1, 0, 8192)
    assert client.bytes_wanted == 16
    client.receive(simple_reply(1)[:10])
    assert client.bytes_wanted == 6
    client.receive(simple_reply(1)[10:])
    assert client.bytes_wanted == 8192
    client.receive(Blocks.of((1, 2)).part(0, 5000))
    assert client.bytes_wanted == 3192
    client.receive(Blocks.of((1, 2)).part(5000, 8192))
    assert client.bytes_wanted == 16


def test_a_failed_read_brings_no_data() -> None:
    """An error reply to a READ is complete without payload."""
    client = connected()
    client.read(1, 0, 8192)
    assert client.receive(simple_reply(1, nbd.NbdError.EIO)) == [Reply(1, 5, None)]
    assert client.bytes_wanted == 16


def test_requests_the_protocol_does_not_allow() -> None:
    """Misuse is the caller's fault, names itself, and sends nothing."""
    with pytest.raises(LocalProtocolError, match="READ in state AWAIT_GREETING"):
        NbdClientConnection().read(1, 0, 4096)
    client = connected()
    with pytest.raises(LocalProtocolError, match="8192 bytes at 1044480 of an export of 1048576 bytes"):
        client.read(1, SIZE - 4096, 8192)
    with pytest.raises(LocalProtocolError, match="WRITE to an export without SEND_FUA"):
        client.write(1, 0, Blocks.of((1,)), fua=True)
    client.read(1, 0, 4096)
    with pytest.raises(LocalProtocolError, match="cookie 0x1 is in flight"):
        client.flush(1)
    client.disconnect()
    with pytest.raises(LocalProtocolError, match="CMD_DISC sent in state CLOSED"):
        client.disconnect()


def test_flags_of_the_export_bound_its_requests() -> None:
    """FLUSH and TRIM are not sent to an export that does not advertise them."""
    client = NbdClientConnection()
    client.receive(nbd.push_greeting(nbd.Greeting(flags=0)))
    client.receive(nbd.push_export_reply(nbd.Export(size_bytes=SIZE, flags=1), no_zeroes=False))
    with pytest.raises(LocalProtocolError, match="FLUSH to an export without SEND_FLUSH"):
        client.flush(1)
    with pytest.raises(LocalProtocolError, match="TRIM to an export without SEND_TRIM"):
        client.trim(1, 0, 4096)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (option_reply(Opt.INFO, Rep.ACK), "reply to option 6, not to NBD_OPT_GO"),
        (option_reply(Opt.GO, Rep.SERVER), "option reply of type 0x2"),
        (option_reply(Opt.GO, 0x80001234), "option reply of type 0x80001234"),
        (option_reply(Opt.GO, Rep.ACK), "NBD_OPT_GO acknowledged without NBD_INFO_EXPORT"),
    ],
)
def test_a_handshake_gone_wrong_is_named(wire: bytes, message: str) -> None:
    """Replies that do not fit the option asked for are the server's fault."""
    client = NbdClientConnection()
    client.receive(FIXED_GREETING)
    with pytest.raises(RemoteProtocolError, match=message):
        client.receive(wire)


def test_replies_nobody_asked_for_are_refused() -> None:
    """A reply to a cookie not in flight, or to one already answered, is the server's fault."""
    client = connected()
    with pytest.raises(RemoteProtocolError, match="reply to cookie 0x63, which is not in flight"):
        client.receive(simple_reply(0x63))
    assert client.state is State.CLOSED


def test_the_end_of_the_stream_between_messages_is_a_fact() -> None:
    """A server may close at any time; what was in flight is known for the next connection."""
    client = connected()
    client.flush(9)
    assert client.receive_eof() == [Disconnected("the peer closed the connection in state TRANSMISSION")]
    assert client.cookies_in_flight == (9,)
    assert client.state is State.CLOSED


@pytest.mark.parametrize(("sent", "short"), [(10, 6), (16, 4096), (116, 3996)])
def test_the_end_of_the_stream_inside_a_message_is_a_fault(sent: int, short: int) -> None:
    """A stream cut inside a header, behind it or inside its payload says how much is missing."""
    client = connected()
    client.read(1, 0, 4096)
    client.receive((simple_reply(1) + Blocks.of((3,)).to_bytes())[:sent])
    with pytest.raises(RemoteProtocolError, match=f"closed the connection {short} bytes short of a message"):
        client.receive_eof()
