"""``netvm run --trace``."""

from pathlib import Path

import pytest

from netvm.cli.app import main

_SCENARIO = """
[kernel]
preset = "6.1"
[machine]
ram_mib = 32
cpus = 1
[storage]
kind = "nbd"
[[workload]]
kind = "anon-hog"
mib = 36
passes = 1
"""


def test_a_run_is_recorded_in_the_format_of_its_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same run as netvm's own file and as text has the same profile."""
    scenario = tmp_path / "small.toml"
    scenario.write_text(_SCENARIO)
    profiles = []
    for suffix in ("nvt", "txt"):
        path = str(tmp_path / f"trace.{suffix}")
        assert main(["run", str(scenario), "--quiet", "--trace", path]) in (0, 1)
        capsys.readouterr()
        assert main(["profile", path, "--csv"]) == 0
        profiles.append(capsys.readouterr().out.splitlines())
    counts = [[line.split(",")[:4] for line in profile] for profile in profiles]
    assert counts[0] == counts[1]
    assert any(line.startswith("alloc_stall,all") for line in profiles[0])


def test_mistakes_cost_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A suffix that no format has, a file that cannot be made, or a second scenario is refused before anything runs."""
    scenario = tmp_path / "small.toml"
    scenario.write_text(_SCENARIO)
    assert main(["run", str(scenario), "--trace", str(tmp_path / "trace.doc")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "the suffix names the format" in said.err
    (tmp_path / "folder.txt").mkdir()
    for name, why in (("no/trace.txt", "No such file or directory"), ("folder.txt", "Is a directory")):
        assert main(["run", str(scenario), "--trace", str(tmp_path / name)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == f"netvm: {tmp_path / name}: cannot be written: {why}\n"
    assert main(["run", str(scenario), str(scenario), "--trace", str(tmp_path / "trace.nvt")]) == 2
    assert "--trace records one scenario" in capsys.readouterr().err


def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recording that cannot be written is told in one line, in whatever format it was to be."""
    scenario = tmp_path / "small.toml"
    scenario.write_text(_SCENARIO)
    for suffix in ("nvt", "txt"):
        path = tmp_path / f"trace.{suffix}"
        path.symlink_to("/dev/full")
        assert main(["run", str(scenario), "--quiet", "--trace", str(path)]) == 2
        assert capsys.readouterr().err == f"netvm: {path}: cannot be written: No space left on device\n"
