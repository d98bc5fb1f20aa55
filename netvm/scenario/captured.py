"""A scenario's skeleton out of what ``netvm capture`` saved of a real host.

RAM, zones, free pages and sysctls are this machine's; the watermarks follow from them by the kernel's formulas, as in
the kernel. What a capture cannot know (what the machine will do, and where it swaps to) is a workload and a storage to
be edited, and the file says so.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from netvm.errors import UsageError
from netvm.fixes import PRESETS
from netvm.scenario.load import scenario_from
from netvm.scenario.recorded import RecordedZone, read_zoneinfo
from netvm.scenario.tomltext import toml_text

__all__ = ["import_host"]

_SYSCTLS: Final = {
    "min_free_kbytes": "min_free_kbytes",
    "watermark_scale_factor": "watermark_scale_factor",
    "watermark_boost_factor": "watermark_boost_factor",
    "compaction_proactiveness": "compaction_proactiveness",
    "swappiness": "swappiness",
    "page-cluster": "page-cluster",
}
"""Keys of ``[vm]`` by sysctl."""
_ZONES: Final = ("DMA", "DMA32", "Normal", "Movable")


def import_host(directory: Path) -> str:
    """Return the scenario, as TOML, of a captured host. Raises UsageError."""
    zones = [zone for zone in _zones(directory) if zone.name in _ZONES and zone.managed > 0]
    if not zones:
        raise UsageError(f"{directory / 'zoneinfo_before'}: no zone with memory; must be /proc/zoneinfo of a host")
    release = _release(directory)
    ram_mib = -(-sum(zone.present for zone in zones) // 256)
    settings = _vm(directory)
    notes = {
        "": f"Skeleton of a captured host, kernel {release or 'unknown'}.\n"
        "Watermarks are computed by the emulated kernel."
        + ("" if settings else "\nNo sysctl of the capture could be read: the kernel's own hold."),
        "workload": "What the machine does is yours to say.",
        "storage": "Where it swaps to, too.",
    }
    data: dict[str, Any] = {
        "title": f"captured host with {ram_mib} MiB",
        "kernel": {"preset": _preset(release)},
        "machine": {"ram_mib": ram_mib, "cpus": 1, "zones": [_zone(zone) for zone in zones]},
        "vm": settings,
        "storage": {"kind": "nbd"},
        "workload": [{"kind": "anon-hog", "mib": max(1, ram_mib * 11 // 10)}],
    }
    scenario_from(data, origin=str(directory))
    return toml_text({key: value for key, value in data.items() if value}, comments=notes)


def _zones(directory: Path) -> tuple[RecordedZone, ...]:
    path = directory / "zoneinfo_before"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; must be the directory of a capture") from error
    first_node = text.partition("\nNode 1,")[0]
    return read_zoneinfo(first_node, origin=str(path))


def _zone(zone: RecordedZone) -> dict[str, Any]:
    return {
        "name": zone.name,
        "present_pages": zone.present,
        "managed_pages": zone.managed,
        "free_pages": min(zone.free, zone.managed),
    }


def _release(directory: Path) -> str:
    try:
        facts = json.loads((directory / "capture.json").read_text())
    except (OSError, ValueError):
        return ""
    return str(facts.get("kernel", "")) if isinstance(facts, dict) else ""


def _preset(release: str) -> str:
    """Return the newest preset that is not newer than the host's kernel."""

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", version)[:2])

    known = sorted(PRESETS, key=number)
    older = [preset for preset in known if number(preset) <= number(release)] if release else []
    return older[-1] if older else known[-1]


def _vm(directory: Path) -> dict[str, int]:
    try:
        lines = (directory / "sysctl_vm.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = dict(line.partition(" = ")[::2] for line in lines)
    values = {key: found.get(f"vm.{name}", "") for name, key in _SYSCTLS.items()}
    return {key: int(value) for key, value in values.items() if value.isdecimal()}
