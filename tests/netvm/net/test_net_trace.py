"""The network's tracepoints."""

import numpy as np

from netvm.net.net_trace import NetTrace
from netvm.net.sk_memory import ProtoMemory, SockMemory
from netvm.runtime.world import World
from netvm.trace.recorder import Recorder
from netvm.trace.records import RecordArray
from netvm.trace.tracepoints import TRACEPOINTS
from netvm.trace.vmstat import NetStat
from netvm.units import PAGE_SIZE


def _records(recorder: Recorder) -> RecordArray:
    return np.concatenate(recorder.batches())


def test_a_socket_over_its_limit_is_told() -> None:
    """A socket that gets no more memory is told with the limits of its protocol; one that gets it is not."""
    recorder = Recorder(World(), groups=("sock",))
    proto = ProtoMemory("TCP", (1, 2, 3), rmem_min=0, wmem_min=0, netstat=NetStat())
    proto.exceeded = NetTrace(recorder).exceed_buf_limit
    mem = SockMemory(proto, rcvbuf=1 << 20, sndbuf=1 << 20)
    assert mem.mem_schedule(PAGE_SIZE, receive=True)
    assert not mem.mem_schedule(5 * PAGE_SIZE, receive=True)
    (record,) = _records(recorder)
    point = TRACEPOINTS[int(record["event"])]
    args = record["args"].tolist()
    assert point.name == "sock_exceed_buf_limit"
    assert recorder.recorded.names[args[point.index("sysctl_mem")]] == "1,2,3"
    assert args[point.index("allocated")] > 3
    assert recorder.recorded.names[args[point.index("kind")]] == "SK_MEM_RECV"
    assert proto.allocated == 1, "what was refused is given back"


def test_dropped_packets_have_the_kernels_reason() -> None:
    """A packet is told once with its reason; what the card drops before there is a packet is not one."""
    recorder = Recorder(World(), groups=("skb",))
    trace = NetTrace(recorder)
    trace.kfree_skb("PFMemallocDrop", 2)
    trace.kfree_skb("rx_missed_errors", 5)
    reasons = [recorder.recorded.names[int(record["args"][3])] for record in _records(recorder)]
    assert reasons == ["PFMEMALLOC", "PFMEMALLOC"]
