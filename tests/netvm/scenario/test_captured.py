"""A scenario out of a captured host."""

import tomllib
from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.scenario.captured import import_host
from netvm.scenario.load import scenario_from

_RUN = Path(__file__).parents[2] / "data" / "runs" / "D2-guestnbd-2ms-a"


def test_zones_and_sysctls_are_the_hosts(tmp_path: Path) -> None:
    """RAM, zones and settings come from the capture; the file is a valid scenario."""
    (tmp_path / "zoneinfo_before").write_text((_RUN / "zoneinfo_before").read_text())
    (tmp_path / "sysctl_vm.txt").write_text("vm.swappiness = 10\nvm.min_free_kbytes = 8192\nvm.page-cluster = 0\n")
    (tmp_path / "capture.json").write_text('{"kernel": "6.12.3-amd64"}')
    text = import_host(tmp_path)
    data = tomllib.loads(text)
    assert data["kernel"]["preset"] == "6.1"
    assert data["vm"] == {"swappiness": 10, "min_free_kbytes": 8192, "page-cluster": 0}
    (zone,) = data["machine"]["zones"]
    assert (zone["name"], zone["managed_pages"]) == ("DMA32", zone["managed_pages"])
    assert data["machine"]["ram_mib"] == -(-zone["present_pages"] // 256)
    scenario_from(data, origin="test")


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    """A directory without a zoneinfo is refused with what would be right."""
    with pytest.raises(UsageError, match="must be the directory of a capture"):
        import_host(tmp_path)
    (tmp_path / "zoneinfo_before").write_text("Node 0, zone   Device\n")
    with pytest.raises(UsageError, match="must be a whole /proc/zoneinfo"):
        import_host(tmp_path)
    (tmp_path / "zoneinfo_before").write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match="must be"):
        import_host(tmp_path)


def test_settings_that_cannot_be_read_are_the_kernels_own(tmp_path: Path) -> None:
    """Without sysctls, or with a damaged file of them, the skeleton says nothing of them and says so."""
    (tmp_path / "zoneinfo_before").write_text((_RUN / "zoneinfo_before").read_text())
    (tmp_path / "sysctl_vm.txt").write_bytes(bytes(range(256)))
    text = import_host(tmp_path)
    assert "vm" not in tomllib.loads(text)
    assert "No sysctl of the capture could be read: the kernel's own hold." in text
