"""Two endpoints driven at random, one event at a time, against a stream that is only offsets.

The model is in the shell of ``conftest``: one bit a byte of what arrived, and a count of what became readable. Here any
event may come next: a write, a read, an arrival in any order, a loss, a copy, a timer, an outage of memory.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from netvm.net.tcp.config import TcpConfig
from netvm.net.tcp.segment import split
from netvm.units import NS_PER_MS

MSS = 100


def _machine(make_wire):
    class ConnectionMachine(RuleBasedStateMachine):
        """A bag of segments on their way instead of a wire: any of them may arrive next."""

        def __init__(self):
            super().__init__()
            config = TcpConfig(mss_bytes=MSS, nodelay=True, congestion="reno", init_cwnd=4)
            self.wire = make_wire(client=config)
            self.wire.client.buffer_bytes = self.wire.server.buffer_bytes = 4000
            self.wire.connect()
            self.bag = []
            self.wire.carry = lambda to, segment: self.bag.append((to, segment))
            self.written = {"client": 0, "server": 0}

        @property
        def shells(self):
            """Both ends."""
            return self.wire.client, self.wire.server

        @rule(server=st.booleans(), size=st.integers(1, 900), skb_bytes=st.integers(1, 500), more=st.booleans())
        def write(self, server, size, skb_bytes, more):
            """Queue some data."""
            shell = self.shells[server]
            self.written[shell.name] += size
            shell.write(size, skb_bytes=skb_bytes, more=more)

        @rule(server=st.booleans(), at_once=st.booleans())
        def read(self, server, at_once):
            """Read everything, and from now on at once or not."""
            shell = self.shells[server]
            shell.reads_at_once = at_once
            shell.read(1 << 20)

        @precondition(lambda self: self.bag)
        @rule(data=st.data(), keep=st.booleans())
        def arrive(self, data, keep):
            """Let any segment on its way arrive, and perhaps stay on its way."""
            at = data.draw(st.integers(0, len(self.bag) - 1))
            to, segment = self.bag[at] if keep else self.bag.pop(at)
            to.deliver(segment)

        @precondition(lambda self: self.bag)
        @rule(data=st.data())
        def lose(self, data):
            """Lose any segment."""
            self.bag.pop(data.draw(st.integers(0, len(self.bag) - 1)))

        @precondition(lambda self: self.bag)
        @rule(data=st.data(), frame_bytes=st.integers(30, 120))
        def cut(self, data, frame_bytes):
            """Cut a segment into frames."""
            at = data.draw(st.integers(0, len(self.bag) - 1))
            to, segment = self.bag[at]
            if segment.size_bytes:
                self.bag[at : at + 1] = [(to, frame) for frame in split(segment, frame_bytes)]

        @rule(ms=st.integers(1, 500))
        def time_passes(self, ms):
            """Let time pass, and timers fire late."""
            self.wire.now_ns += ms * NS_PER_MS
            for shell in self.shells:
                due = shell.c.timer_ns()
                if due is not None and due <= self.wire.now_ns:
                    shell.facts += [(self.wire.now_ns, fact) for fact in shell.c.handle_timer(self.wire.now_ns)]
                    shell.transmit()

        @rule(server=st.booleans(), why=st.sampled_from([None, "memory", "congestion"]), data_too=st.booleans())
        def memory(self, server, why, data_too):
            """Begin or end an outage."""
            self.shells[server].refuse = lambda segment: why
            self.shells[server].refuse_data = lambda segment: data_too

        @rule(server=st.booleans())
        def prune(self, server):
            """Give back the memory of the last range out of order."""
            shell = self.shells[server]
            if shell.c.out_of_order:
                start, end = shell.c.out_of_order[-1]
                shell.c.prune_out_of_order(start)
                shell.arrived[start - 1 : end - 1] = bytes(end - start)

        @invariant()
        def streams_agree(self):
            """Compare what is read, kept and acknowledged with the model."""
            for shell in self.shells:
                peer = shell.peer
                assert peer.acked_bytes <= shell.readable_bytes <= self.written[peer.name]
                assert shell.readable_bytes == shell.c.rcv_nxt - 1
                assert all(shell.arrived[: shell.readable_bytes])
                held = {b for start, end in shell.c.out_of_order for b in range(start - 1, end - 1)}
                ahead = shell.arrived[shell.readable_bytes :]
                assert held == {shell.readable_bytes + at for at, bit in enumerate(ahead) if bit}

        def teardown(self):
            """With memory and a good wire, everything still on its way arrives."""
            for shell in self.shells:
                shell.refuse = lambda segment: None
                shell.refuse_data = lambda segment: False
                shell.reads_at_once = True
            del self.wire.carry
            for shell in self.shells:
                if shell.c.error is None:
                    shell.read(1 << 20)
            for to, segment in self.bag:
                self.wire.carry(to, segment)
            if any(shell.c.error for shell in self.shells):
                return
            self.wire.run(lambda: all(shell.acked_bytes == self.written[shell.name] for shell in self.shells))
            for shell in self.shells:
                assert shell.acked_bytes == self.written[shell.name]
                assert shell.readable_bytes == self.written[shell.peer.name]

    return ConnectionMachine


def test_any_order_of_events(make_wire):
    """Whatever comes next, both streams stay whole, every check of the shell holds, and all ends well."""
    run_state_machine_as_test(
        _machine(make_wire), settings=settings(max_examples=80, stateful_step_count=40, deadline=None)
    )
