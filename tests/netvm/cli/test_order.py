"""`netvm order`: cycles, JSON, exit codes."""

import json

import pytest

from netvm.cli.app import main


def test_a_broken_arm_has_a_cycle(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, and the receive path is named."""
    assert main(["order", "A2/nbd-broken", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["cycles"][0]["who"] == "softirq"
    assert told["cycles"][0]["fix"] == "rx_memalloc"


def test_a_fixed_arm_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0."""
    assert main(["order", "A2/nbd-broken", "--set", "kernel.fixes.rx_memalloc=true"]) == 0
    assert "0 cycles" in capsys.readouterr().out
