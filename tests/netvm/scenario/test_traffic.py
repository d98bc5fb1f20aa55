"""Other traffic: what arrives takes this host's memory until somebody reads it."""

from typing import Any

import pytest

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
