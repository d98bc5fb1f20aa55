"""Whatever the wire and the memory do, the stream arrives once, whole and in order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.segment import merge, split
from netvm.net.tcp.state import TcpState
from netvm.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS

_CONFIGS = st.builds(
    TcpConfig,
    mss_bytes=st.sampled_from([100, 536, 1448]),
    nodelay=st.booleans(),
    timestamps=st.booleans(),
    congestion=st.sampled_from(["reno", "cubic"]),
    init_cwnd=st.sampled_from([1, 2, 10]),
    max_quickacks=st.sampled_from([1, 16]),
)

_FATES = st.lists(
    st.one_of(
        st.sampled_from(["carry", "lose", "twice", "frames", "odd frames", "backwards", "hole"]),
        st.integers(0, 300),
    ),
    max_size=40,
)
"""What happens to each segment, in the order they are sent; an integer is a delay in milliseconds."""


def _fate(fates, segment, number):
    """Return what arrives of one segment."""
    fate = fates[number] if number < len(fates) else "carry"
    if isinstance(fate, int):
        return [(fate * MS, segment)]
    if fate == "lose":
        return []
    if fate == "twice":
        return [(0, segment), (30 * MS, segment)]
    if segment.size_bytes < 2 or fate == "carry":
        return [(0, segment)]
    frames = split(segment, 100 if fate != "odd frames" else 77)
    if fate == "backwards":
        frames = frames[::-1]
    elif fate == "hole":
        frames = [frame for at, frame in enumerate(frames) if at % 4 != 1]
    elif fate == "odd frames" and len(frames) > 1:
        joined = merge(frames[0], frames[1], max_bytes=65_535)
        frames = [joined, *frames[2:]]
    return [(at, frame) for at, frame in enumerate(frames)]


def _outages(shell, outages):
    """Let the n-th attempt of a shell to send fail as told."""
    attempts = iter(outages)
    shell.refuse = lambda segment: next(attempts, None)


@given(
    client=_CONFIGS,
    server=_CONFIGS,
    fates=_FATES,
    latency_ms=st.sampled_from([0, 1, 40]),
    writes=st.lists(st.tuples(st.integers(1, 30_000), st.integers(200, 20_000), st.booleans()), min_size=1, max_size=4),
    answers=st.lists(st.integers(1, 5_000), max_size=3),
    outages=st.lists(st.sampled_from([None, None, "memory", "congestion"]), max_size=12),
    refused=st.sets(st.integers(0, 30), max_size=7),
)
@settings(max_examples=120, deadline=None)
def test_the_stream_arrives(make_wire, client, server, fates, latency_ms, writes, answers, outages, refused):
    """Loss, delay, duplication, reordering, cuts, failures of memory on either side: every byte arrives once, in order.

    The shell checks at each step that windows are kept, sk_buffs are not spanned and a timer runs when one must.
    """
    wire = make_wire(client=client, server=server, latency_ns=latency_ms * MS)
    wire.mangle = lambda segment, number: _fate(fates, segment, number)
    wire.connect()
    arrivals = iter(range(10_000))
    wire.server.refuse_data = lambda segment: next(arrivals) in refused
    for shell in (wire.client, wire.server):
        _outages(shell, outages)
    for size, skb_bytes, more in writes:
        wire.client.write(size, skb_bytes=skb_bytes, more=more)
        wire.run(until_ns=wire.now_ns + 20 * MS)
    for size in answers:
        wire.server.write(size)
    sent, answered = sum(size for size, _, _ in writes), sum(answers)
    wire.run(lambda: wire.client.acked_bytes == sent and wire.server.acked_bytes == answered, until_ns=5000 * NS_PER_S)
    assert (wire.server.readable_bytes, wire.client.acked_bytes) == (sent, sent)
    assert (wire.client.readable_bytes, wire.server.acked_bytes) == (answered, answered)
    wire.client.c.close()
    wire.client.transmit()
    wire.run(lambda: wire.server.c.state is TcpState.CLOSE_WAIT)
    wire.server.c.close()
    wire.server.transmit()
    wire.run()
    assert wire.client.c.state is wire.server.c.state is TcpState.CLOSED
    assert wire.client.c.error is None
    assert wire.server.c.error is None


@given(
    buffer_bytes=st.integers(3000, 40_000),
    reads=st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 700)), max_size=30),
    fates=_FATES,
)
@settings(max_examples=60, deadline=None)
def test_a_slow_reader_gets_everything(make_wire, buffer_bytes, reads, fates):
    """A small buffer read in fits and starts: the window closes and opens, probes are lost, and nothing is stuck."""
    wire = make_wire(client=TcpConfig(nodelay=True), latency_ns=MS)
    wire.server.buffer_bytes = buffer_bytes
    wire.server.reads_at_once = False
    wire.mangle = lambda segment, number: _fate(fates, segment, number)
    wire.connect()
    wire.client.write(60_000)
    for size, pause_ms in reads:
        wire.run(until_ns=wire.now_ns + pause_ms * MS)
        wire.server.read(size)
    for _ in range(200):
        wire.run(until_ns=wire.now_ns + 100 * MS)
        wire.server.read(1 << 20)
        if wire.server.readable_bytes == 60_000:
            break
    wire.run(lambda: wire.client.acked_bytes == 60_000)
    assert wire.server.readable_bytes == wire.client.acked_bytes == 60_000
