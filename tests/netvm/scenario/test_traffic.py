"""Other traffic: what arrives takes this host's memory until somebody reads it."""

from typing import Any

import pytest

from netvm.net.sock import TcpSock
from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment
from netvm.units import NS_PER_MS


def ended(traffic: dict[str, Any], *, think_ms: int = 1, **tables: Any) -> Experiment:
    """Run a program that takes its time on a machine without pressure, beside the traffic."""
    tables = {
        "machine": {"ram_mib": 64},
        "storage": {"kind": "nbd", "size_mib": 64},
        "workload": [{"kind": "anon-hog", "mib": 1, "passes": 1, "think_ns": think_ms * NS_PER_MS}],
        "traffic": [traffic],
    } | tables
    experiment = Experiment(scenario_from(tables, origin="small"), name="small")
    run_virtual(experiment.run)
    return experiment


def flood(reader: str = "never", **keys: Any) -> dict[str, Any]:
    """Return a flood of 1,000 datagrams a second."""
    return {"kind": "udp-flood", "packets_per_s": 1000, "bytes": 1000, "reader": reader} | keys


def queued(experiment: Experiment) -> int:
    """Return how many datagrams lie in UDP sockets of the host."""
    return sum(len(sock.queue) for sock in experiment.host.stack.sockets if hasattr(sock, "read_one"))


def test_what_nobody_reads_stays() -> None:
    """A quarter of a second of a flood is some 250 datagrams, all in the socket, and the books balance."""
    experiment = ended(flood())
    assert 240 <= queued(experiment) + experiment.host.netstat["UdpRcvbufErrors"] <= 270
    assert experiment.audit() == []


def test_a_receive_buffer_is_a_bound() -> None:
    """A socket takes no more than its buffer; the rest is dropped and counted."""
    experiment = ended(flood(rcvbuf_bytes=50_000))
    assert queued(experiment) <= 50_000 // 1000
    assert experiment.host.netstat["UdpRcvbufErrors"] > 100


@pytest.mark.parametrize("reader", ["fast", "slow", "blocked"])
def test_a_reader_empties_its_socket(reader: str) -> None:
    """A fast and a blocked reader keep up; a slow one takes what its pace allows."""
    experiment = ended(flood(reader, reads_per_s=100, rcvbuf_bytes=1_000_000))
    if reader == "slow":
        assert 200 <= queued(experiment) <= 240
    else:
        assert queued(experiment) <= 2


def test_a_flood_begins_and_stops_in_its_time() -> None:
    """From start_ms to stop_ms, and not a datagram outside."""
    experiment = ended(flood(start_ms=50, stop_ms=150, rcvbuf_bytes=1_000_000))
    assert 98 <= queued(experiment) <= 102


def test_datagrams_go_to_their_sockets_in_turn() -> None:
    """The rate is that of all sockets together."""
    experiment = ended(flood(sockets=4, rcvbuf_bytes=1_000_000))
    lengths = [len(sock.queue) for sock in experiment.host.stack.sockets if hasattr(sock, "read_one")]
    assert len(lengths) == 4
    assert max(lengths) - min(lengths) <= 1
    assert 240 <= sum(lengths) <= 270


@pytest.mark.parametrize("reader", ["never", "fast"])
def test_a_stream_is_bounded_by_its_window(reader: str) -> None:
    """A peer whose data nobody reads stops at the receive buffer; read at once, it goes on at its rate."""
    stream = {"kind": "tcp-stream", "bytes_per_s": 2_000_000, "reader": reader, "rcvbuf_bytes": 65536}
    experiment = ended(stream)
    received = experiment.host.netstat["TCPRcvQDrop"]
    assert received == 0
    held = sum(sock.mem.rmem_alloc for sock in experiment.host.stack.sockets if sock.name.startswith("stream"))
    assert held <= 2 * 65536
    assert bool(held) is (reader == "never")


def sender(**keys: Any) -> dict[str, Any]:
    """Return a program that sends 1,000 messages of 100 bytes a second."""
    return {"kind": "tcp-sender", "messages_per_s": 1000, "bytes": 100} | keys


def senders(experiment: Experiment) -> list[TcpSock]:
    """Return the sockets of the senders."""
    return [sock for sock in experiment.host.stack.sockets if sock.name.startswith("sender")]


def written(experiment: Experiment) -> int:
    """Return how many bytes the senders have written."""
    return sum(sock.outgoing.written_bytes for sock in senders(experiment))


def packets(experiment: Experiment) -> int:
    """Return how many packets lie in the senders' write queues."""
    return sum(len(sock.write_queue) for sock in senders(experiment))


def test_a_sender_sends_at_its_pace_and_a_peer_that_reads_lets_nothing_stay() -> None:
    """A quarter of a second is some 250 messages, over the connections in turn; all but the last is acknowledged."""
    experiment = ended(sender(sockets=4))
    assert 24_000 <= written(experiment) <= 27_000
    shares = [sock.outgoing.written_bytes for sock in senders(experiment)]
    assert max(shares) - min(shares) <= 100
    assert packets(experiment) <= 1
    assert experiment.audit() == []


def test_each_process_has_a_pace_and_connections_of_its_own() -> None:
    """Three of them send three times as much, each in its own name."""
    experiment = ended(sender(processes=3, sockets=2))
    assert 72_000 <= written(experiment) <= 81_000
    assert sorted({sock.holder for sock in senders(experiment)}) == ["sender0", "sender1", "sender2"]
    assert len(senders(experiment)) == 6


def test_what_is_sent_to_a_peer_that_is_gone_stays() -> None:
    """Nothing is acknowledged once the connection is there; the pages are held in the program's name."""
    experiment = ended(sender(sockets=50, peer="gone"))
    assert all(sock.established for sock in senders(experiment))
    # Nagle: after the first packet of a socket the others wait in one
    assert 50 <= packets(experiment) <= 100
    assert {sock.core.snd_una for sock in senders(experiment)} == {1}, "the SYN alone"
    assert experiment.host.ledger.table()["skb:sender"] >= 1


def test_nodelay_makes_each_message_a_packet() -> None:
    """Up to the congestion window, ten at the start; what is beyond it goes into the last packet."""
    experiment = ended(sender(sockets=20, peer="gone", nodelay=True))
    assert 190 <= packets(experiment) <= 220


def test_a_far_peer_acknowledges_after_the_way_there_and_back() -> None:
    """What lies there is what was sent in one round trip."""
    experiment = ended(sender(sockets=200, peer_delay_us=20_000, nodelay=True))
    assert 36 <= packets(experiment) <= 46


def test_a_peer_that_stops_reading_closes_its_window() -> None:
    """It acknowledges what fits; the rest fills the socket, and what finds no room then is dropped at once."""
    experiment = ended(
        sender(messages_per_s=2000, bytes=4096, peer="stops"), think_ms=20, vm={"tcp_wmem": [4096, 65536, 65536]}
    )
    (sock,) = senders(experiment)
    assert 4 << 20 <= sock.core.snd_una <= (4 << 20) + 8192
    assert 65536 <= sock.mem.wmem_queued <= 65536 + 8192
    assert sock.short_of == "room"


def test_a_sender_begins_and_stops_in_its_time() -> None:
    """From start_ms to stop_ms, and not a message outside."""
    experiment = ended(sender(start_ms=50, stop_ms=150))
    assert written(experiment) == 100 * 100


def test_what_falls_due_while_memory_is_waited_for_is_sent_afterwards() -> None:
    """Under pressure the program is late, and yet all its messages are written."""
    experiment = ended(
        sender(sockets=20, messages_per_s=4000, stop_ms=140),
        think_ms=0,
        machine={"ram_mib": 24},
        workload=[{"kind": "anon-hog", "mib": 24, "passes": 1}],
    )
    vmstat = experiment.host.vmstat.as_dict()
    assert sum(count for name, count in vmstat.items() if name.startswith("allocstall")) > 0
    assert experiment.world.now_ns > 140 * NS_PER_MS
    assert written(experiment) == 4 * 140 * 100
