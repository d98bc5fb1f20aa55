"""Whole runs over NFS version 4.1."""

from typing import Any

import pytest

from netvm.errors import UsageError
from netvm.runtime.clock import run_virtual
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import outcome_json
from netvm.scenario.run import Experiment, run_scenario
from netvm.scenario.schema import Scenario

RECOVERED = "1 times the state manager made the session with the server anew"


def writer(**tables: Any) -> Scenario:
    """Return a program that writes a file over version 4.1, on a server that is restarted meanwhile."""
    tables = {
        "machine": {"ram_mib": 32, "costs": {"noise": 0.3}},
        "storage": {
            "kind": "nfs",
            "vers": "4.1",
            "role": "fs",
            "size_mib": 64,
            "wsize_bytes": 262144,
            "proxy_bandwidth_bytes_per_s": 10_000_000,
        },
        "workload": [{"kind": "file-writer", "mib": 12, "chunk_kib": 64, "fsync": "end"}],
        "fault": [{"at_ms": 0, "after_mib": 6, "kind": "server-restart", "for_ms": 500}],
    } | tables
    return scenario_from(tables, origin="writer")


def hog(*, restart: bool = True, **tables: Any) -> Scenario:
    """Return a program that needs a little more memory than there is, and swaps over version 4.1."""
    tables = {
        "machine": {"ram_mib": 64, "costs": {"noise": 0.3}},
        "storage": {"kind": "nfs", "vers": "4.1", "size_mib": 64},
        "workload": [{"kind": "anon-hog", "mib": 50, "passes": 1}],
        "fault": [{"at_ms": 100, "kind": "server-restart", "for_ms": 300}] if restart else [],
    } | tables
    return scenario_from(tables, origin="hog")


def run(scenario: Scenario) -> Experiment:
    """Run a scenario to its end and return everything."""
    experiment = Experiment(scenario, name="nfs4")
    run_virtual(experiment.run)
    return experiment


def test_a_file_outlasts_a_restart_of_the_server() -> None:
    """The program is through, what the server keeps is what was written, and the verdict's reader is told."""
    experiment = run(writer())
    outcome = experiment.outcome()
    assert (outcome.verdict, outcome.audit) == ("COMPLETED", [])
    assert RECOVERED in outcome.explanation
    (mapping,) = experiment.host.files.cache.mappings.values()
    backend: Any = experiment.host.backend
    kept = experiment.host.files.fs.server_content(mapping.name)  # type: ignore[attr-defined]
    assert (kept[: mapping.nr_pages] == mapping.version[: mapping.nr_pages]).all()
    assert mapping.version[: 12 * 256].all()
    assert backend.service.nr_lost_blocks > 0
    assert experiment.host.files.fs.nr_resent_pages >= backend.service.nr_lost_blocks  # type: ignore[attr-defined]


@pytest.mark.parametrize("fixes", [{}, {"nfs4_freeze_session": False}])
def test_swap_outlasts_a_restart_of_the_server(fixes: dict[str, bool]) -> None:
    """The program is through, the books balance, and the verdict's reader is told of the recovery."""
    outcome = run_scenario(hog(kernel={"fixes": fixes}), name="nfs4")
    assert (outcome.verdict, outcome.audit) == ("COMPLETED", [])
    assert RECOVERED in outcome.explanation
    assert outcome.vmstat["pswpout"] > 4096
    assert [report.finished for report in outcome.workload] == [True]


def test_pages_come_back_from_a_restarted_server() -> None:
    """Every page that is read from swap, written before or after the restart, is the one that was written."""
    machine = {"ram_mib": 40, "costs": {"noise": 0.3}}
    scenario = hog(machine=machine, workload=[{"kind": "anon-hog", "mib": 24, "passes": 2}])
    outcome = run_scenario(scenario, name="nfs4")
    assert (outcome.verdict, outcome.audit) == ("COMPLETED", [])
    assert RECOVERED in outcome.explanation
    assert outcome.vmstat["pswpin"] > 1024
    assert [report.bad for report in outcome.workload] == [0]


def test_a_run_without_a_restart_says_nothing_of_one() -> None:
    """Nothing was recovered, and the run ends as one over version 3 does."""
    outcome = run_scenario(hog(restart=False), name="nfs4")
    assert (outcome.verdict, outcome.audit) == ("COMPLETED", [])
    assert outcome.vmstat["pswpout"] > 0
    assert not [line for line in outcome.explanation if "state manager" in line]


@pytest.mark.parametrize("make", [writer, hog])
def test_the_same_seed_gives_the_same_result(make: Any) -> None:
    """Two runs with a recovery print the same object to the byte; another seed prints another."""
    first, second, other = (run_scenario(make(run={"seed": seed}), name="nfs4") for seed in (1, 1, 2))
    assert outcome_json(first) == outcome_json(second) != outcome_json(other)
    assert RECOVERED in first.explanation


@pytest.mark.parametrize(
    "storage", [{"kind": "nfs", "place": "local"}, {"kind": "nfs", "transport": "udp"}, {"kind": "nbd"}]
)
def test_version_4_1_is_of_a_server_outside_over_tcp(storage: dict[str, Any]) -> None:
    """With any other storage it is refused by its name."""
    data = {"storage": storage | {"vers": "4.1"}, "workload": [{"kind": "anon-hog", "mib": 120}]}
    with pytest.raises(UsageError) as caught:
        scenario_from(data, origin="a.toml")
    (line,) = str(caught.value).splitlines()
    assert line == (
        'a.toml: storage.vers = "4.1": is of an NFS server outside, over TCP; '
        'must be "3", or kind "nfs", place "remote", transport "tcp"'
    )


def test_there_are_two_versions() -> None:
    """Version 3 is what there is unless 4.1 is asked for; others are refused."""
    assert hog(storage={"kind": "nfs", "size_mib": 64}).storage.vers == "3"
    with pytest.raises(UsageError, match=r"storage\.vers"):
        hog(storage={"kind": "nfs", "size_mib": 64, "vers": "4.0"})
