"""Tests of the scripts in ``benchmarks``: that each still runs, at sizes that take no time, and prints its table."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("simpy")

_SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def _names(monkeypatch, script: str) -> dict[str, Any]:
    """Return what a script defines, found as Python finds it when the script is run."""
    monkeypatch.syspath_prepend(str(_SCRIPTS))
    return runpy.run_path(str(_SCRIPTS / script))


def test_the_runtime_table_has_its_rows(monkeypatch, capsys) -> None:
    """Run with few events, the script prints the rows its README explains."""
    monkeypatch.setattr(sys, "argv", ["bench_runtime.py", "--events", "2000", "--rounds", "1"])
    _names(monkeypatch, "bench_runtime.py")["main"]()
    printed = capsys.readouterr().out
    assert [row for row in ("SimPy, 1 process(es)", "steps, 100 task(s)") if row not in printed] == []


def test_memory_is_measured_on_a_small_host(monkeypatch) -> None:
    """Pages are touched, a host is booted and filled, and a program runs to its audited end."""
    script = _names(monkeypatch, "bench_memory.py")
    assert script["touch_rate"](2000) > 0
    assert 0 < script["measure_boot"](64)["share"] < 1
    assert script["measure_run"](64, 1)["peak_mib"] > 0


def test_the_simpy_model_swaps_out_what_does_not_fit(monkeypatch) -> None:
    """The model beside which ours is measured ends, and writes what was touched beyond half of its memory."""
    run = _names(monkeypatch, "bench_swap_out.py")["simpys"](64)
    assert run.pages == (64 - 48) * 256 - 32
    assert 0.5 < run.link_share < 1.0


def test_a_writer_is_timed_to_the_store(monkeypatch) -> None:
    """A file of a few MiB is written, and takes time."""
    assert _names(monkeypatch, "bench_pagecache.py")["rate"](8) > 0


@pytest.mark.slow
def test_the_throttle_is_looked_at_from_outside(monkeypatch) -> None:
    """A small machine settles somewhere near, pauses are short, and each of two devices has a part."""
    script = _names(monkeypatch, "bench_throttle.py")
    ratio, pause_ms = script["settle"]("disk", 64, 24)
    assert 0.5 < ratio < 2
    assert 0 < pause_ms <= 200
    found = script["share"](64, 10)
    assert [key for key in ("limit", "dirty", "written") if not 0 < found[key] < 1] == []
    assert found["pause_ms"] <= 200


def test_an_interrupted_integrity_run_goes_on_where_it_was(monkeypatch, capsys, tmp_path) -> None:
    """Seeds that are in the file are not run again, a line that was cut short is no finding, and all are summed up."""
    script = _names(monkeypatch, "integrity.py")
    out = tmp_path / "findings.jsonl"
    out.write_text(
        '{"finding":{"seed":0,"verdict":"HANG","nr_audits":3,"wrong":["lost"]},"cpu_s":0.5}\n{"finding":{"se', "utf-8"
    )
    monkeypatch.setattr(sys, "argv", ["integrity.py", "--out", str(out), "--count", "1"])
    script["main"]()
    printed = capsys.readouterr().out
    assert "1 scenarios, 4 audits" in printed
    assert "seed 0 (HANG): lost" in printed


def test_a_file_over_nfs_loads_its_link(monkeypatch) -> None:
    """The writer ends, and the link is no small part of the time busy with its file."""
    pages_per_s, load = _names(monkeypatch, "bench_nfs.py")["rate"](24)
    assert pages_per_s > 0
    assert 0.5 < load <= 1


def test_the_finding_power_table_is_told_honestly(monkeypatch) -> None:
    """A median beyond the cap is `> cap`, seeds that are missing are counted, and the page's part is renewed."""
    script = _names(monkeypatch, "finding_power.py")
    exhibit, cell = script["EXHIBITS"][0], script["Cell"]
    cells = [cell(exhibit.title, "random", seed, at, at or exhibit.cap) for seed, at in enumerate((3, None, None))]
    row = next(line for line in script["table"](cells) if line.startswith(f"| {exhibit.title} |"))
    assert row.split(" | ")[1] == f"> {exhibit.cap} (3 to cap); 1 of 3 found it [3 seeds]"
    assert script["table"](cells)[-1] == "Cells by the model they were measured with: 3 of states that were not kept."
    marks = [script[name].format("x") for name in ("_BEGIN", "_END")]
    page = "\n".join(["before", marks[0], "old", marks[1], "after"])
    assert script["part_replaced"](page, ["new"], "x") == page.replace("old", "new")


def test_a_switch_is_found_in_its_carrier(monkeypatch) -> None:
    """Without memory for the receive side the small form of A2 hangs in its calm schedule; the base has its digest."""
    script = _names(monkeypatch, "switches.py")
    carrier = script["CARRIERS"][0]
    cell, _ = script["search"](carrier, "rx_memalloc", 0, "")
    assert (cell.schedule, cell.what, cell.changed) == (1, "HANG", True)
    lines = script["table"]([cell])
    assert f"| `rx_memalloc` | at schedule 1 | {carrier.title} | HANG |" in lines
