"""The retransmit queue against the dumbest model: a dict with the tags of each byte."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netvm.net.tcp.scoreboard import RetransmitQueue
from netvm.net.tcp.segment import ACK

MSS = 10


class ScoreboardMachine(RuleBasedStateMachine):
    """Send, SACK, lose, retransmit and acknowledge at random."""

    def __init__(self) -> None:
        super().__init__()
        self.rtx = RetransmitQueue(MSS)
        self.tags: dict[int, str] = {}
        self.una = self.nxt = 0

    @rule(size=st.integers(1, 60))
    def send(self, size: int) -> None:
        """Send new data."""
        packets = self.rtx.append(self.nxt, self.nxt + size, flags=ACK, size_bytes=size, sent_ns=self.nxt)
        assert packets == -(-size // MSS)
        self.tags.update(dict.fromkeys(range(self.nxt, self.nxt + size), ""))
        self.nxt += size

    @rule(data=st.data())
    @precondition(lambda self: self.nxt > self.una)
    def sack(self, data: st.DataObject) -> None:
        """Tag a random range as held by the peer."""
        start = data.draw(st.integers(self.una, self.nxt - 1))
        end = data.draw(st.integers(start + 1, self.nxt))
        news = any(self.tags[byte] != "S" for byte in range(start, end))
        assert self.rtx.sack(((start, end),)) == news
        self.tags.update(dict.fromkeys(range(start, end), "S"))

    @rule(data=st.data())
    @precondition(lambda self: self.nxt > self.una)
    def acknowledge(self, data: st.DataObject) -> None:
        """Acknowledge up to a random byte."""
        ack = data.draw(st.integers(self.una + 1, self.nxt))
        before = self.rtx.packets_out
        packets, _ = self.rtx.acknowledge(ack)
        assert self.rtx.packets_out == before - packets
        for byte in range(self.una, ack):
            del self.tags[byte]
        self.una = ack

    @rule()
    @precondition(lambda self: self.nxt > self.una)
    def time_out(self) -> None:
        """Let the retransmission timer fire."""
        reneged = self.tags[self.una] == "S"
        assert self.rtx.mark_all_lost() == reneged
        self.tags = {byte: "S" if tag == "S" and not reneged else "L" for byte, tag in self.tags.items()}

    @rule()
    def judge(self) -> None:
        """IsLost by the packet count of the SACKed skbs above, taken from the queue; the tags are ours."""
        above = sum(skb.packets for skb in self.rtx if skb.sacked)
        for skb in list(self.rtx):
            if skb.sacked:
                above -= skb.packets
            elif above >= 3:
                for byte in range(skb.seq, skb.end):
                    self.tags[byte] = self.tags[byte] or "L"
        self.rtx.mark_lost(3)

    @rule(data=st.data())
    @precondition(lambda self: self.rtx.next_lost() is not None)
    def retransmit(self, data: st.DataObject) -> None:
        """Send the beginning of what is lost again."""
        skb = self.rtx.next_lost()
        assert skb.seq == min(byte for byte, tag in self.tags.items() if tag == "L")
        end = data.draw(st.integers(skb.seq + 1, skb.end))
        seq = skb.seq
        self.rtx.retransmitted(seq, end, 0)
        self.tags.update(dict.fromkeys(range(seq, end), "LR"))

    @invariant()
    def tags_agree(self) -> None:
        """Compare the tags of each byte with the model."""
        seen = {
            byte: "S" * skb.sacked + "L" * skb.lost + "R" * skb.retrans
            for skb in self.rtx
            for byte in range(skb.seq, skb.end)
        }
        assert seen == self.tags

    @invariant()
    def counts_agree(self) -> None:
        """Compare the counts with the queue."""
        rtx = self.rtx
        assert rtx.packets_out == sum(-(-(skb.end - skb.seq) // MSS) for skb in rtx)
        assert rtx.sacked_out == sum(skb.packets for skb in rtx if skb.sacked)
        assert rtx.lost_out == sum(skb.packets for skb in rtx if skb.lost)
        assert rtx.retrans_out == sum(skb.packets for skb in rtx if skb.retrans)
        assert (rtx.next_lost() is None) == ("L" not in self.tags.values())
        assert 0 <= rtx.in_flight <= rtx.packets_out


TestScoreboard = ScoreboardMachine.TestCase
TestScoreboard.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
