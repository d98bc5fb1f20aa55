"""Blames: each mistake in raw data is told with its key, its value and what would be right."""

import tomllib

import pytest

from netvm.scenario.blame import Blame, blames, dotted, nearest, refuse, shown
from netvm.scenario.schema import Scenario

_COMPLETE = '[storage]\nkind = "nbd"\n[[workload]]\nkind = "anon-hog"\nmib = 10\n'


def _told(text: str) -> list[str]:
    return [str(blame) for blame in blames(tomllib.loads(text), Scenario)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("vm.swapiness = 1", "vm.swapiness = 1: unknown key; did you mean vm.swappiness?"),
        ("vm.page_cluster = 3", "vm.page_cluster = 3: unknown key; did you mean vm.page-cluster?"),
        ("min_free_kbytes = 1", "min_free_kbytes = 1: unknown key here; did you mean vm.min_free_kbytes?"),
        (
            "kernel.min_free_kbytes = 1",
            "kernel.min_free_kbytes = 1: unknown key here; did you mean vm.min_free_kbytes?",
        ),
        ("workloads = []", "workloads: unknown key; did you mean workload?"),
        ("run.xyzzy = 1", "run.xyzzy = 1: unknown key; run knows seed, oracle, max_virtual_s, max_steps, stall_s"),
        ("vm.swappiness = 300", "vm.swappiness = 300: must be an integer from 0 to 200"),
        ("vm.swappiness = -1", "vm.swappiness = -1: must be an integer from 0 to 200"),
        ("vm.swappiness = true", "vm.swappiness = true: must be an integer from 0 to 200"),
        ("vm.swappiness = 1.0", "vm.swappiness = 1.0: must be an integer from 0 to 200"),
        ("vm.swappiness = [60]", "vm.swappiness: must be an integer from 0 to 200, not a list"),
        ("vm.swappiness = {}", "vm.swappiness: must be an integer from 0 to 200, not a table"),
        ("vm.swappiness = 2024-01-01", "vm.swappiness = 2024-01-01: must be an integer from 0 to 200"),
        (
            'vm.min_free_kbytes = "4096"',
            'vm.min_free_kbytes = "4096": must be an integer above 0; write it without quotes',
        ),
        ('nic.recycle = "true"', 'nic.recycle = "true": must be true or false; write it without quotes'),
        ('nic.recycle = "yes"', 'nic.recycle = "yes": must be true or false'),
        ('kernel.fixes.oom_reaper = "no"', 'kernel.fixes.oom_reaper = "no": must be true or false'),
        ("link.loss = 1.5", "link.loss = 1.5: must be a number from 0.0 to 1.0"),
        ("link.loss = nan", "link.loss = nan: must be a number from 0.0 to 1.0"),
        ("run.stall_s = inf", "run.stall_s = inf: must be a number above 0, at most 9000000"),
        ("run.seed = 9223372036854775808", "run.seed = 9223372036854775808: must be an integer, 0 or more"),
        ("title = 7", "title = 7: must be a string"),
        (
            'memory_group = [{name = "", limit_kib = 64}]',
            'memory_group.0.name = "": must be a string that is not empty',
        ),
        (
            "kernel.preset = 6.1",
            'kernel.preset = 6.1: must be one of "2.6.11", "3.6", "6.1", "6.18"; write it in quotes',
        ),
        (
            'kernel.preset = "6.2"',
            'kernel.preset = "6.2": must be one of "2.6.11", "3.6", "6.1", "6.18"; did you mean "6.1"?',
        ),
        (
            'run.oracle = "FIFO"',
            'run.oracle = "FIFO": must be one of "fifo", "random"; did you mean "fifo"?',
        ),
        ("machine = 96", "machine = 96: must be a table"),
        ("[traffic]\nname = 'x'", "traffic: must be a list of tables; write [[traffic]], not [traffic]"),
        (
            'expect = "HANG"',
            (
                'expect = "HANG": must be a list of words out of "COMPLETED", "CORRUPT", "DROP_FOREVER", "HANG", '
                '"IO_ERROR", "LIVELOCK", "LOST_WRITE", "OOM", "OVER_THROTTLE", "STALL"; write ["HANG"]'
            ),
        ),
        (
            '[expect]\nverdict = "HANG"',
            (
                'expect: must be a list of words out of "COMPLETED", "CORRUPT", "DROP_FOREVER", "HANG", "IO_ERROR", '
                '"LIVELOCK", "LOST_WRITE", "OOM", "OVER_THROTTLE", "STALL"; write expect = ["COMPLETED"] above the '
                "first table"
            ),
        ),
        (
            "[vm.tcp_mem]\nmin = 1",
            "vm.tcp_mem: must be a list of integers above 0; write tcp_mem = [...] in [vm]",
        ),
        ("vm.tcp_mem = 96", "vm.tcp_mem = 96: must be a list of integers above 0; write [96]"),
        ("vm.tcp_mem = [1, 2, 3, 4]", "vm.tcp_mem: must have at most 3 entries, not 4"),
        ("vm.tcp_mem = [1, 0]", "vm.tcp_mem.1 = 0: must be an integer above 0"),
        ("expect = []", "expect: must have 1 or more entries"),
        ("[[fault]]\nkind = 'stall'", "fault.0.at_ms: missing; must be an integer, 0 or more"),
        (
            "[[fault]]\nat_ms = 1\nkind = 'stalled'",
            (
                'fault.0.kind = "stalled": must be one of "disk-full", "half-open", "io-error", "link-down", '
                '"loss-burst", "reset", "server-restart", "slow-commit", "stall"; did you mean "stall"?'
            ),
        ),
        (
            "[[traffic]]\nkind = 'udp_flood'",
            (
                'traffic.0.kind = "udp_flood": must be one of "tcp-sender", "tcp-stream", "udp-flood"; '
                'did you mean "udp-flood"?'
            ),
        ),
        ("[[traffic]]\nname = 'x'", 'traffic.0.kind: missing; must be one of "tcp-sender", "tcp-stream", "udp-flood"'),
    ],
)
def test_one_mistake_is_told_in_one_line(text: str, line: str) -> None:
    """One wrong key gives exactly this line: key path, value, what would be right, and the nearest word."""
    before, header, after = text.partition("[[") if text.startswith("[[") else (text, "", "")
    told = _told(f"{before}\n{_COMPLETE}{header}{after}")
    assert told == [line]


def test_a_complete_scenario_has_no_mistake() -> None:
    """Nothing is blamed in data that is right."""
    assert _told(_COMPLETE) == []


def test_a_value_that_is_said_another_way_is_told_how() -> None:
    """Who wants files and swap on one storage learns how that is written."""
    told = _told(_COMPLETE.replace('"nbd"', '"nbd"\nrole = "both"'))
    assert told == ['storage.role = "both": must be one of "fs", "swap"; "fs" with a storage.swap_mib is both']


def test_missing_tables_are_told() -> None:
    """An empty scenario lacks the two tables that have no default."""
    assert _told("") == ["storage: missing; must be a table", "workload: missing; must be a list of tables"]


def test_unknown_keys_come_before_missing_ones() -> None:
    """A misspelt table is told as unknown first: that it is missing is only its consequence."""
    first, *rest = _told('[storge]\nkind = "nbd"\n[[workload]]\nkind = "anon-hog"\nmib = 10\n')
    assert first == "storge: unknown key; did you mean storage?"
    assert rest == ["storage: missing; must be a table"]


def test_values_are_shown_short() -> None:
    """A value of any length is shown on one short line."""
    assert shown("a\nb") == '"a\\nb"'
    assert shown([1, "two", {"three": 3}]) == '[1, "two", {...}]'
    assert len(shown("x" * 10_000)) == 60
    assert shown(2**20_000) == "(an integer of 20001 bits)"


def test_nearest_forgives_case_and_underscores() -> None:
    """The words that differ only in case or in the kind of dash are near."""
    assert nearest("UDP_Flood", ["tcp-stream", "udp-flood"]) == "udp-flood"
    assert nearest("xyzzy", ["tcp-stream", "udp-flood"]) is None


def test_refuse_names_the_origin() -> None:
    """The error begins with the file or option that is to blame."""
    blame = Blame(path=("vm", "swappiness"), value=300, problem="too much")
    assert str(refuse("a.toml", blame)) == "a.toml: vm.swappiness = 300: too much"
    assert dotted(("workload", 0, "mib")) == "workload.0.mib"
