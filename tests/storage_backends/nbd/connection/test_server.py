"""The server core against clients written out by hand, well and badly behaved."""

import pytest

from storage_backends.nbd import messages as nbd
from storage_backends.nbd.connection.server import NbdServerConnection, Request
from storage_backends.nbd.messages import CmdFlag, CmdType, NbdError, Opt, Rep, TransmissionFlag
from storage_backends.nbd.state import Disconnected, Negotiated, State
from storage_backends.wire import Blocks, LocalProtocolError, RemoteProtocolError, render

SIZE = 1 << 20
ALL_FLAGS = TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_FUA | TransmissionFlag.SEND_TRIM
GO = nbd.push_option_request(nbd.OptionRequest(option=Opt.GO, data=nbd.push_go_data(nbd.GoData(name="swap"))))


def option(number: int, data: bytes = b"") -> bytes:
    """Return the bytes of an option."""
    return nbd.push_option_request(nbd.OptionRequest(option=number, data=data))


def request(
    cmd_type: int, *, cookie: int = 1, offset: int = 0, length: int = 4096, flags: int = 0, data: bytes = b""
) -> bytes:
    """Return the bytes of a request."""
    header = nbd.Request(flags=flags, cmd_type=cmd_type, cookie=cookie, offset=offset, length=length)
    return nbd.push_request(header) + data


def connected(flags: int = ALL_FLAGS) -> NbdServerConnection:
    """Return a server that has finished its handshake."""
    server = NbdServerConnection(SIZE, flags)
    server.receive(nbd.push_client_flags(3))
    server.receive(GO)
    server.chunks_to_send()
    return server


def test_handshake_with_go() -> None:
    """The server greets, says what the export is, acknowledges and is in transmission."""
    server = NbdServerConnection(SIZE, ALL_FLAGS, export_name="swap")
    assert render(server.chunks_to_send()) == bytes.fromhex("4e42444d41474943 49484156454f5054 0003")
    assert server.bytes_wanted == 4
    assert server.receive(nbd.push_client_flags(3)) == []
    assert server.bytes_wanted == 16
    assert server.receive(GO) == [Negotiated(SIZE, ALL_FLAGS | 1)]
    assert render(server.chunks_to_send()) == bytes.fromhex(
        "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 002d"
        "0003e889045565a9 00000007 00000001 00000000"
    )
    assert server.state is State.TRANSMISSION
    assert server.bytes_wanted == 28


@pytest.mark.parametrize(("client_flags", "nr_zeroes"), [(3, 0), (1, 124)])
def test_handshake_with_export_name(client_flags: int, nr_zeroes: int) -> None:
    """The old option enters transmission too, with zeroes unless both sides agreed to omit them."""
    server = NbdServerConnection(SIZE, 0)
    server.chunks_to_send()
    server.receive(nbd.push_client_flags(client_flags))
    assert server.receive(option(Opt.EXPORT_NAME, b"swap")) == [Negotiated(SIZE, 1)]
    assert render(server.chunks_to_send()) == bytes.fromhex("0000000000100000 0001") + bytes(nr_zeroes)


def test_options_are_haggled_one_by_one() -> None:
    """Unknown options and names and broken data are refused, INFO informs, and the client may go on."""
    server = NbdServerConnection(SIZE, 0, export_name="swap")
    server.receive(nbd.push_client_flags(3))
    server.chunks_to_send()
    wrong_name = nbd.push_go_data(nbd.GoData(name="other"))
    right_name = nbd.push_go_data(nbd.GoData(name="swap"))
    for number, data, reply_types in [
        (Opt.STRUCTURED_REPLY, b"", [Rep.ERR_UNSUP]),
        (99, b"what", [Rep.ERR_UNSUP]),
        (Opt.GO, wrong_name, [Rep.ERR_UNKNOWN]),
        (Opt.GO, b"\0", [Rep.ERR_INVALID]),
        (Opt.INFO, right_name, [Rep.INFO, Rep.ACK]),
    ]:
        assert server.receive(option(number, data)) == []
        wire = render(server.chunks_to_send())
        info = nbd.push_info_export(nbd.Export(size_bytes=SIZE, flags=1))
        assert wire == b"".join(
            nbd.push_option_reply(
                nbd.OptionReply(option=number, reply_type=kind, data=info if kind is Rep.INFO else b"")
            )
            for kind in reply_types
        )
        assert server.state is State.OPTION_HAGGLING


def test_an_abort_is_acknowledged() -> None:
    """NBD_OPT_ABORT is answered before the connection closes."""
    server = NbdServerConnection(SIZE, 0)
    server.receive(nbd.push_client_flags(3))
    server.chunks_to_send()
    assert server.receive(option(Opt.ABORT)) == [Disconnected("client sent NBD_OPT_ABORT")]
    assert render(server.chunks_to_send()) == bytes.fromhex("0003e889045565a9 00000002 00000001 00000000")
    assert server.state is State.CLOSED


def test_a_wrong_name_without_a_way_to_refuse_ends_the_session() -> None:
    """NBD_OPT_EXPORT_NAME cannot be refused, so the server leaves."""
    server = NbdServerConnection(SIZE, 0, export_name="swap")
    server.receive(nbd.push_client_flags(3))
    server.chunks_to_send()
    assert server.receive(option(Opt.EXPORT_NAME, b"other")) == [Disconnected("client asked for export 'other'")]
    assert server.chunks_to_send() == []
    assert server.state is State.CLOSED


def test_unknown_client_flags_end_the_session() -> None:
    """A client that took up what was not offered cannot be understood."""
    with pytest.raises(RemoteProtocolError, match="client flags 0x7 have unknown bits"):
        NbdServerConnection(SIZE, 0).receive(nbd.push_client_flags(7))


def test_requests_are_delivered_with_their_data() -> None:
    """A WRITE is delivered when its data has arrived, by reference; the others at once."""
    server = connected()
    blocks = Blocks.of((1, 2))
    assert server.receive(request(CmdType.WRITE, cookie=5, offset=4096, length=8192, flags=CmdFlag.FUA)) == []
    assert server.bytes_wanted == 8192
    assert server.receive(blocks) == [Request(CmdType.WRITE, 5, 4096, 8192, blocks, fua=True)]
    assert server.receive(request(CmdType.READ, cookie=6)) == [Request(CmdType.READ, 6, 0, 4096, None, fua=False)]
    assert server.receive(request(CmdType.TRIM, cookie=7)) == [Request(CmdType.TRIM, 7, 0, 4096, None, fua=False)]
    assert server.receive(request(CmdType.FLUSH, cookie=8, length=0)) == [
        Request(CmdType.FLUSH, 8, 0, 0, None, fua=False)
    ]


def test_replies_are_the_protocols_bytes() -> None:
    """A reply is its 16 bytes, and what a READ found follows by reference."""
    server = connected()
    server.receive(request(CmdType.READ, cookie=5))
    server.receive(request(CmdType.READ, cookie=6))
    blocks = Blocks.of((9,))
    assert server.reply(5, payload=blocks) == [bytes.fromhex("67446698 00000000 0000000000000005"), blocks]
    assert server.reply(6, error=NbdError.EIO) == [bytes.fromhex("67446698 00000005 0000000000000006")]


@pytest.mark.parametrize(
    ("flags", "wire", "error"),
    [
        (ALL_FLAGS, request(77), NbdError.EINVAL),
        (ALL_FLAGS, request(CmdType.READ, flags=2), NbdError.EINVAL),
        (ALL_FLAGS, request(CmdType.READ, offset=SIZE), NbdError.EINVAL),
        (ALL_FLAGS, request(CmdType.READ, length=2 * SIZE), NbdError.EINVAL),
        (ALL_FLAGS, request(CmdType.TRIM, offset=SIZE), NbdError.EINVAL),
        (ALL_FLAGS, request(CmdType.WRITE, offset=SIZE, data=bytes(4096)), NbdError.ENOSPC),
        (0, request(CmdType.FLUSH, length=0), NbdError.EINVAL),
        (0, request(CmdType.TRIM), NbdError.EINVAL),
        (0, request(CmdType.WRITE, flags=CmdFlag.FUA, data=bytes(4096)), NbdError.EINVAL),
        (TransmissionFlag.READ_ONLY, request(CmdType.WRITE, data=bytes(4096)), NbdError.EPERM),
    ],
)
def test_requests_that_cannot_be_served_are_refused(flags: int, wire: bytes, error: int) -> None:
    """The core answers what the export cannot do with the error proto.md names, and goes on."""
    server = connected(flags)
    assert server.receive(wire) == []
    assert render(server.chunks_to_send()) == nbd.push_simple_reply(nbd.SimpleReply(error=error, cookie=1))
    assert server.receive(request(CmdType.READ)) == [Request(CmdType.READ, 1, 0, 4096, None, fua=False)]


def test_a_read_too_long_for_one_reply_is_refused() -> None:
    """More than every server takes in one request is an error, not a breach (proto.md, "Block size constraints")."""
    server = NbdServerConnection(1 << 30, 0)
    server.receive(nbd.push_client_flags(3) + GO)
    server.chunks_to_send()
    assert server.receive(request(CmdType.READ, length=(32 << 20) + 1)) == []
    assert render(server.chunks_to_send()) == bytes.fromhex("67446698 00000016 0000000000000001")


def test_breaches_end_the_connection() -> None:
    """A reused cookie and a WRITE no server takes are the client's fault."""
    server = connected()
    server.receive(request(CmdType.READ, cookie=3))
    with pytest.raises(RemoteProtocolError, match="cookie 0x3 is in flight"):
        server.receive(request(CmdType.READ, cookie=3))
    assert server.state is State.CLOSED
    with pytest.raises(RemoteProtocolError, match="WRITE of 33554433 bytes, more than 33554432"):
        connected().receive(request(CmdType.WRITE, length=(32 << 20) + 1))


def test_replies_the_protocol_does_not_allow() -> None:
    """A reply to nothing, or with the wrong amount of data, is the caller's fault."""
    server = connected()
    with pytest.raises(LocalProtocolError, match="reply to cookie 0x1, which is not in flight"):
        server.reply(1)
    server.receive(request(CmdType.READ))
    with pytest.raises(LocalProtocolError, match="reply to cookie 0x1 must bring 4096 bytes of data"):
        server.reply(1)
    with pytest.raises(LocalProtocolError, match="reply to cookie 0x1 must bring 0 bytes of data"):
        server.reply(1, error=NbdError.EIO, payload=Blocks.of((1,)))


def test_a_soft_disconnect_is_a_fact() -> None:
    """NBD_CMD_DISC gets no reply; nothing behind it is read."""
    server = connected()
    assert server.receive(request(CmdType.DISC) + b"more") == [Disconnected("client sent NBD_CMD_DISC")]
    assert server.chunks_to_send() == []
    assert server.bytes_wanted == 0
    assert server.receive_eof() == [Disconnected("the peer closed the connection in state CLOSED")]


def test_a_write_cut_short_is_a_fault() -> None:
    """A stream that ends inside a WRITE says how much is missing."""
    server = connected()
    server.receive(request(CmdType.WRITE) + bytes(96))
    with pytest.raises(RemoteProtocolError, match="4000 bytes short of a message"):
        server.receive_eof()
