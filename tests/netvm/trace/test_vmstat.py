"""Counters under their kernel names."""

from pathlib import Path

from netvm.trace.vmstat import ZONE_NAMES, NetStat, VmStat, read_netstat

RECORDED = Path(__file__).parents[2] / "data" / "runs"


def test_every_attribute_is_shown_under_its_own_name() -> None:
    """as_dict has each counter and gauge once, with its value; the three per zone are flattened."""
    vmstat = VmStat()
    names = [name for name in VmStat.__slots__ if name not in ("pgalloc", "allocstall", "pgskip")]
    for number, name in enumerate(names, start=1):
        setattr(vmstat, name, number)
    shown = vmstat.as_dict()
    assert {name: shown[name] for name in names} == {name: number for number, name in enumerate(names, start=1)}
    per_zone = {f"{kind}_{zone}" for kind in ("pgalloc", "allocstall", "pgskip") for zone in ZONE_NAMES}
    assert set(shown) == {*names, *per_zone, "allocstall"}


def test_annotations_and_slots_are_the_same() -> None:
    """What a type checker believes in exists, and the other way round."""
    assert set(VmStat.__annotations__) | {"pgalloc", "allocstall", "pgskip"} == set(VmStat.__slots__)


def test_counters_per_zone() -> None:
    """Allocations and stalls are counted by zone; stalls also together."""
    vmstat = VmStat()
    vmstat.pgalloc["dma32"] += 3
    vmstat.allocstall["normal"] += 2
    vmstat.allocstall["movable"] += 1
    shown = vmstat.as_dict()
    assert (shown["pgalloc_dma32"], shown["pgalloc_normal"]) == (3, 0)
    assert (shown["allocstall_normal"], shown["allocstall_movable"], shown["allocstall"]) == (2, 1, 3)


def test_a_fresh_machine_has_counted_nothing() -> None:
    """All zero, and two machines do not count together."""
    one, other = VmStat(), VmStat()
    one.pgfault += 1
    one.pgalloc["dma"] += 1
    assert set(other.as_dict().values()) == {0}


def test_names_are_the_kernels() -> None:
    """The recorded kernels print every name in /proc/vmstat, but for the sum of stalls over all zones."""
    recorded = [path.read_text(encoding="utf-8") for path in RECORDED.glob("*/vmstat_before")]
    kernel = {line.split()[0] for text in recorded for line in text.splitlines()}
    assert set(VmStat().as_dict()) - kernel == {"allocstall"}


def test_netstat_keeps_what_was_counted() -> None:
    """Names come from who counts; what nobody counted is zero and not shown; names are shown in order."""
    netstat = NetStat()
    netstat.add("TCPRcvQDrop")
    netstat.add("PFMemallocDrop", 2)
    netstat.add("TCPRcvQDrop")
    assert netstat["TCPRcvQDrop"] == 2
    assert netstat["TCPBacklogDrop"] == 0
    assert list(netstat.as_dict().items()) == [("PFMemallocDrop", 2), ("TCPRcvQDrop", 2)]


def test_netstat_is_read_in_pairs_of_lines() -> None:
    """Names in one line, values in the next; what is cut off or no number is left out."""
    counters = read_netstat((RECORDED / "D2-guestnbd-2ms-a" / "netstat_before").read_text())
    assert len(counters) > 100
    assert counters["PFMemallocDrop"] == 0
    assert counters["InNoECTPkts"] > 0
    assert read_netstat("TcpExt: A B C\nTcpExt: 1 x -1\nIpExt: D\n") == {"A": 1, "C": -1}
    assert read_netstat("") == {}
