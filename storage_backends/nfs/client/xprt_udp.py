"""The transport over UDP: a socket that is never connected, a window of calls, and timers that mean it.

Mirrors ``xs_udp_ops`` of net/sunrpc/xprtsock.c and the congestion control of xprt.c, as they were from 2.6 to 4.x. A
call is one datagram. The lock (XPRT_LOCKED) is for one call at a time: who takes it has a unit of the congestion window
(``xprt_reserve_xprt_cong``), sends, and lets go. What is to be sent again goes before what is sent for the first time.
A time-out is no alarm here but the only way of learning that a call or its reply was lost, or that one of their
fragments was: it halves the window and sends the whole call again, after a wait that the answers so far have taught
(:class:`~storage_backends.nfs.connection.timeouts.RttEstimator`).

The socket allocates with GFP_ATOMIC and never sleeps for memory; a call without it is tried again a quarter of a second
later. Replies are read in softirq, as they come (``xs_udp_data_ready``). With swap on the mount the socket is
SOCK_MEMALLOC.

# MODEL: replies are read in softirq on all kernels (from 4.4 on a workqueue does it), and calls are not queued for the
# lock's holder to send (from 5.0 on they are). A call without memory comes again on kernels before 3.x, too.
"""

from collections import deque
from typing import Any, Final

from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.zone import adjust_memalloc_reserve
from netvm.net.udp import UdpSock
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.units import pages_of
from storage_backends.nfs.client.clnt import RpcClient
from storage_backends.nfs.client.rpc_task import RpcTask
from storage_backends.nfs.client.slots import SlotTable
from storage_backends.nfs.client.transport import NO_MEMORY, NO_ROOM, SendLock
from storage_backends.nfs.connection.congestion import CongestionWindow
from storage_backends.nfs.connection.timeouts import Expiry, RetransmitTimer, RpcTimeout, RttEstimator
from storage_backends.wire import RemoteProtocolError, size_of

__all__ = ["UdpXprt"]


class UdpXprt(SendLock):
    """``struct rpc_xprt`` over UDP."""

    is_connected: Final = True

    def __init__(self, client: RpcClient, sock: UdpSock, *, max_slots: int, timeout: RpcTimeout) -> None:
        super().__init__(client)
        self.world = client.world
        self.sock = sock
        self.slots = SlotTable(max_slots, nr_spare=max_slots)
        self.window = CongestionWindow(max_slots)
        self.rtt = RttEstimator(timeout)
        self.timeout = timeout
        self.resend: deque[RpcTask] = deque()
        self.nr_retransmitted = 0
        self._sent_at_ns: dict[int, int] = {}
        """When each call on the wire was sent last, by xid (rq_xtime)."""
        self._not_responding = False
        sock.data_ready = self.xs_udp_data_ready
        sock.write_space = self._room_again
        client.connection.is_stream = False

    def set_memalloc(self) -> None:
        """Make the socket one that memory is freed through (xs_set_memalloc), and keep memory for what it needs."""
        fixes, stack = self.client.fixes, self.client.stack
        if fixes.nfs_swap_memalloc:
            self.sock.sk_set_memalloc()
        fragments = stack.ip_frags.memory if stack.ip_frags is not None else None
        if fixes.reserve_counts_fragments and fragments is not None:
            adjust_memalloc_reserve(stack.pages.node.zones, pages_of(fragments.high_bytes))

    def connect(self, _rpc: RpcTask) -> None:
        """There is nothing to connect."""
        raise AssertionError("a UDP transport is always connected")

    # -- the lock -------------------------------------------------------------------------------------------------

    def lock_write(self, rpc: RpcTask) -> bool:
        """Take the lock and a unit of the window, or sleep for them and return False (xprt_reserve_xprt_cong)."""
        if self.locked_by is rpc:
            return True
        if self.locked_by is None and not self.write_space and self.window.get(rpc.xid):
            self.locked_by = rpc
            return True
        is_free = self.locked_by is None and not self.write_space
        what = f"a unit of the window (cwnd {self.window.cwnd})" if is_free else "the transport's lock"
        if rpc.xid in self._sent_at_ns:
            self.resend.append(rpc)
            rpc.sleep_on(f"xprt sending again: {what}")
        else:
            self.sending.append(rpc)
            rpc.sleep_on(f"xprt sending: {what}")
        return False

    def release_write(self, holder: RpcTask) -> None:
        """Let go of the lock and let the next one in (xprt_release_xprt_cong)."""
        if self.locked_by is holder:
            self.locked_by = None
            self._lock_write_next()

    def release_request(self, rpc: RpcTask) -> None:
        """Have back the unit of a call that was answered before it was sent again (xprt_release_rqst_cong)."""
        self.window.put(rpc.xid)
        self._lock_write_next()

    def _waiting(self) -> deque[RpcTask]:
        """Return whose turn it is, if the window has a unit for anybody (__xprt_lock_write_next_cong)."""
        return deque() if self.window.is_full else self.resend or self.sending

    def _admits(self, rpc: RpcTask) -> bool:
        """Whether a call has a unit of the window."""
        return self.window.get(rpc.xid)

    # -- sending --------------------------------------------------------------------------------------------------

    def enqueue(self, rpc: RpcTask) -> None:
        """A call is to be sent."""
        rpc.need_xmit = True

    def dequeue(self, rpc: RpcTask) -> bool:
        """A call needs not be sent any more."""
        rpc.need_xmit = False
        return True

    async def transmit(self, task: Task, rpc: RpcTask) -> None:
        """Send one call as a datagram (xprt_transmit, xs_udp_send_request); ``rpc.status`` says how it ended."""
        if rpc.reply is not None:
            # it was answered before it was sent again
            rpc.need_xmit = False
            return
        client = self.client
        if rpc.bvec_under_lock and not await rpc.alloc_bvec(task, GFP_KERNEL):
            rpc.status = NO_MEMORY
            return
        task.charge_ns += client.costs.dispatch_request
        chunks = client.connection.send(rpc.xid)
        rpc.status = self.sock.sendmsg_nowait(task, list(chunks), sum(map(size_of, chunks)))
        if client.tracer is not None:
            client.tracer.transmit(task, rpc, rpc.status)
        if rpc.status == NO_ROOM:
            self.write_space = True
        if rpc.status:
            return
        rpc.need_xmit = False
        self.nr_retransmitted += rpc.nr_sent > 0
        rpc.nr_sent += 1
        self._sent_at_ns[rpc.xid] = self.world.now_ns

    # -- waiting for replies --------------------------------------------------------------------------------------

    def wait_receive(self, rpc: RpcTask) -> None:
        """Sleep until the reply comes or the time for it is over (xprt_set_retrans_timeout_rtt)."""
        now_ns = self.world.now_ns
        if rpc.retransmit is None:
            rpc.retransmit = RetransmitTimer(self.timeout, now_ns)
        rpc.retransmit.wait(now_ns, self.rtt.wait_ns(rpc.name, rpc.retransmit.nr_minor))
        rpc.sleep_on("xprt pending: the reply")
        rpc.timer = self.world.call_at(
            rpc.retransmit.deadline_ns,
            self._xprt_timer,
            rpc,
            kind=TimerKind.RETRY,
            site=f"{self.client.name}: RPC time-out",
        )

    def _xprt_timer(self, rpc: RpcTask) -> None:
        """A call was not answered: make the window smaller and send it again (xs_udp_timer, call_timeout)."""
        assert rpc.retransmit is not None
        rpc.timer = None
        self.window.timed_out(rpc.xid)
        if rpc.retransmit.expired(self.world.now_ns) is Expiry.MAJOR:
            self.rtt.reset()
            if not self._not_responding:
                self._not_responding = True
                self.client.log(f"nfs: server {self.client.server_name} not responding, still trying")
        self.enqueue(rpc)
        rpc.wake_up()
        self._lock_write_next()

    # -- receiving ------------------------------------------------------------------------------------------------

    def xs_udp_data_ready(self) -> None:
        """Read the replies there are and wake their tasks; runs in softirq."""
        softirq = self.client.stack.softirq
        while (packet := self.sock.read_one()) is not None:
            try:
                reply = self.client.connection.receive_datagram(list(packet.content))
            except RemoteProtocolError as error:
                self.client.log(f"nfs: server {self.client.server_name}: {error}")
                continue
            if softirq.cpus is not None:
                softirq.cpus.steal(self.client.costs.complete_request)
            if reply is None:
                continue
            if self._not_responding:
                self._not_responding = False
                self.client.log(f"nfs: server {self.client.server_name} OK")
            rpc = self.client.tasks.get(reply.xid)
            assert rpc is not None
            rpc.reply = reply
            if self.client.tracer is not None:
                self.client.tracer.lookup_rqst(softirq, rpc)
            sent_at_ns = self._sent_at_ns.pop(reply.xid)
            self.window.answered(reply.xid)
            self.rtt.answered(rpc.name, self.world.now_ns - sent_at_ns, rpc.nr_sent)
            if rpc.sleeps_on.startswith("xprt pending: the reply"):
                rpc.wake_up()
            self._lock_write_next()

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs(self, rpc: RpcTask) -> tuple[Resource | Task, ...]:
        """Say what a sleeping call waits for, as far as this host provides it."""
        found = self._needs_of_holder(rpc) if rpc.sleeps_on.startswith("xprt sending") else ()
        if found:
            return found
        if rpc.sleeps_on.startswith("rpc_delay"):
            return (self.client.pools.pages.memory,)
        blocked = self.client.stack.receive_blocked()
        return (blocked,) if rpc.sleeps_on.startswith("xprt") and blocked is not None else ()

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        # a call that is sent again is a new chance, unless nothing at all can be received
        chances = 0 if self.client.stack.receive_blocked() is not None else self.nr_retransmitted
        return (len(self.resend), len(self.sending), self.window.cong, self.write_space, len(self._sent_at_ns), chances)
