"""The server over UDP."""

from netvm.net.wire import Packet
from storage_backends.nfs.connection.procedures import NULL

NO_SUCH_PROGRAM = bytes.fromhex("00000007 00000000 00000002 000186a4 00000003 00000000") + bytes(16)
REFUSED = bytes.fromhex("00000007 00000001 00000000 00000000 00000000 00000001")


def test_a_datagram_that_is_no_call_is_dropped(mounted) -> None:
    """It is answered with nothing, and the next call is served; one of another program is refused."""
    host = mounted("storage.transport=udp")
    sent = []

    async def script(task) -> None:
        server = host.backend.remote
        send = server.sock.send

        def watched(content, size_bytes) -> None:
            sent.append(b"".join(content))
            send(content, size_bytes)

        server.sock.send = watched
        server.sock.take(_packet(server, b"no call"), None)
        assert sent == []
        server.sock.take(_packet(server, NO_SUCH_PROGRAM), None)
        assert sent == [REFUSED]
        assert await host.client.call_sync(task, NULL, None) is not None
        await host.pause(task, 10)
        assert host.client.connection.nr_stray_replies == 1

    host.run(script)


def _packet(server, data) -> Packet:
    return Packet(server.sock, None, len(data), 1, [data])
