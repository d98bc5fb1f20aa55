"""Loading: a TOML file becomes a scenario, or one line says why not."""

import errno
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.errors import UsageError
from netvm.scenario.load import load_scenario, options_of, read_text, scenario_from, scenario_toml

_SCENARIO = """\
[kernel]
fixes = { memalloc_sockets = false }

[storage]
kind = "nbd"

[[workload]]
kind = "anon-hog"
mib = 120
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a complete scenario into the working directory, so that its name is short."""
    monkeypatch.chdir(tmp_path)
    path = Path("a.toml")
    path.write_text(_SCENARIO)
    return path


def _refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_scenario(path, overrides=overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_defaults_are_filled_in(file: Path) -> None:
    """Keys that are left out have the schema's defaults; single switches stand over the preset."""
    scenario = load_scenario(file)
    assert scenario.kernel.preset == "6.1"
    assert scenario.kernel.fixes == {"memalloc_sockets": False}
    assert scenario.vm.min_free_kbytes is None
    assert scenario.workload[0].mib == 120


def test_a_number_may_be_the_name_of_a_kernel(file: Path) -> None:
    """What a shell has taken the quotes from is read as it was typed; what is no kernel either is told as a number."""
    for typed in ("kernel.preset=6.18", 'kernel.preset="6.18"'):
        assert load_scenario(file, overrides=[typed]).kernel.preset == "6.18"
    assert load_scenario(file, overrides=["workload.0.name=10"]).workload[0].name == "10"
    assert _refusal(file, "kernel.preset=6.19").startswith("--set kernel.preset=6.19: must be one of ")


def test_overrides_are_toml_values_or_plain_strings(file: Path) -> None:
    """``--set`` reaches tables, dashed keys, switches and list entries, and may add an entry at the end of a list."""
    scenario = load_scenario(
        file,
        overrides=[
            "vm.min_free_kbytes=4096",
            "vm.page-cluster = 0",
            'kernel.preset="3.6"',
            "kernel.fixes.oom_reaper=false",
            "nic.kind=virtio-net",
            "workload.0.mib=0x20",
            "workload.1={kind = 'anon-pulse', mib = 7}",
            "fault.0.kind=stall",
            "fault.0.at_ms=5",
            "machine.zones=[]",
            "title=a = b",
        ],
    )
    assert scenario.vm.min_free_kbytes == 4096
    assert scenario.vm.page_cluster == 0
    assert scenario.kernel.preset == "3.6"
    assert scenario.kernel.fixes == {"memalloc_sockets": False, "oom_reaper": False}
    assert scenario.nic.kind == "virtio-net"
    assert [workload.mib for workload in scenario.workload] == [32, 7]
    assert [(fault.kind, fault.at_ms) for fault in scenario.fault] == [("stall", 5)]
    assert scenario.title == "a = b"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("vm.swapiness=60", "--set vm.swapiness=60: unknown key; did you mean vm.swappiness?"),
        ("vm.swappiness=lots", "--set vm.swappiness=lots: must be an integer from 0 to 200"),
        ("vm.swappiness=300", "--set vm.swappiness=300: must be an integer from 0 to 200"),
        ("vm.swappiness", "--set vm.swappiness: must be KEY=VALUE, the key a dotted path such as vm.min_free_kbytes"),
        ("=1", "--set =1: must be KEY=VALUE, the key a dotted path such as vm.min_free_kbytes"),
        ("vm..x=1", "--set vm..x=1: must be KEY=VALUE, the key a dotted path such as vm.min_free_kbytes"),
        ("workload.mib=1", "--set workload.mib=1: workload is a list; write an index, as in workload.0.mib"),
        ("workload.2.mib=1", "--set workload.2.mib=1: workload ends before this; index must be from 0 to 1"),
        (
            f"workload.{'9' * 5000}.mib=1",
            f"--set workload.{'9' * 5000}.mib=1: workload ends before this; index must be from 0 to 1",
        ),
        ("workload.-1.mib=1", "--set workload.-1.mib=1: workload is a list; index must be from 0 to 1"),
        ("workload.².mib=1", "--set workload.².mib=1: workload is a list; index must be from 0 to 1"),
        ("run.stall_s=1e300", "--set run.stall_s=1e300: must be a number above 0, at most 9000000"),
        (
            "workload.1.mib=1",
            (
                'a.toml --set workload.1.mib=1: workload.1.kind: missing; must be one of "anon-hog", "anon-pulse", '
                '"file-reader", "file-writer", "metadata-storm"'
            ),
        ),
        (
            "storage.kind.x=1",
            '--set storage.kind.x=1: storage.kind = "nbd" is no table; nothing can be set under it',
        ),
        ("vm=1", "--set vm=1: must be a table"),
        (
            "kernel.fixes.memaloc_sockets=true",
            "--set kernel.fixes.memaloc_sockets=true: unknown fix; did you mean memalloc_sockets?",
        ),
        ("workload.0.mib=0", "--set workload.0.mib=0: must be an integer from 1 to 16777216"),
        (
            "vm.min_free_kbytes=999999999",
            "--set vm.min_free_kbytes=999999999: must be less than the memory of the machine, 98304 kB",
        ),
    ],
)
def test_a_bad_override_is_named(file: Path, override: str, line: str) -> None:
    """A mistake on the command line is put on the option, not on the file."""
    assert _refusal(file, override) == line


def test_an_override_that_contradicts_the_file_is_named_beside_it(file: Path) -> None:
    """Where the option makes a key of the file impossible, both are named."""
    file.write_text(_SCENARIO + "[[fault]]\nat_ms = 5000\nkind = 'stall'\n")
    assert (
        _refusal(file, "run.max_virtual_s=1")
        == "a.toml --set run.max_virtual_s=1: fault.0.at_ms = 5000: must be before the end, run.max_virtual_s = 1"
    )


def test_mistakes_of_the_file_name_the_file(file: Path) -> None:
    """Unknown keys, wrong types, values out of range: one line with file, key path, value and what would be right."""
    file.write_text(_SCENARIO.replace("mib = 120", "mbi = 120"))
    assert _refusal(file) == "a.toml: workload.0.mbi = 120: unknown key; did you mean workload.0.mib?"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[storage\nkind = 1\n", "a.toml:1:9: not TOML: expected ']' at the end of a table declaration"),
        ('[vm]\nx = "abc', "a.toml:2: not TOML: the file ends too early: unterminated string"),
        ("[vm]\nx", "a.toml:2: not TOML: the file ends too early: expected '=' after a key in a key/value pair"),
        ("[vm]\nx = 1\nx = 2\n", "a.toml:3:6: not TOML: cannot overwrite a value"),
        ("", "a.toml: empty; a scenario has [storage] and [[workload]] at least"),
        (" \n\t\n", "a.toml: empty; a scenario has [storage] and [[workload]] at least"),
        (
            '{"scenario": "x"}\n',
            "a.toml:1:1: not TOML: invalid statement; a result of `netvm run --json`? see `netvm replay`",
        ),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(file: Path, text: str, line: str) -> None:
    """A syntax error has line and column; a truncated or empty file says so."""
    file.write_text(text)
    assert _refusal(file) == line


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"\x7fELF\0\1", "a.toml: binary (a NUL byte at offset 4), not a text"),
        (b"title = '\xff'", "a.toml: not UTF-8 text (byte 0xff at offset 9)"),
        (b"x = " + b"[" * 100_000, "a.toml: nested too deep to be a scenario"),
        (b"a" + b".a" * 50_000 + b" = 1", "a.toml: nested too deep to be a scenario"),
        (b"#" * (5 << 20), "a.toml: larger than 4 MiB; no such file of netvm is"),
    ],
)
def test_what_is_no_text_is_told(file: Path, raw: bytes, line: str) -> None:
    """A binary file, another encoding, or something endless is refused before it is parsed."""
    file.write_bytes(raw)
    assert _refusal(file) == line


def test_a_reproducer_is_not_taken_for_a_scenario(file: Path) -> None:
    """It has a tape, which only `netvm replay` follows."""
    file.write_text(f"{_SCENARIO}\n[reproducer]\n")
    assert _refusal(file) == "a.toml: a reproducer of `netvm check`, not a scenario; run `netvm replay a.toml`"


def test_a_number_of_many_digits_is_refused(file: Path) -> None:
    """A number that Python refuses to read is an error of the file, not of netvm."""
    file.write_text(f"x = {'9' * 5000}\n")
    assert _refusal(file).startswith("a.toml: not TOML: ")


def test_files_that_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a directory and a refused one are each told."""
    assert _refusal(Path("b.toml")) == "b.toml: no such file"
    assert _refusal(Path()) == ".: is a directory, not a file"

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert _refusal(file) == "a.toml: cannot be read: Permission denied"


def test_a_name_that_is_none_is_refused() -> None:
    """A file name with a NUL in it is a usage error."""
    with pytest.raises(UsageError, match="no file name"):
        read_text(Path("a\0b"))


def test_options_read_back_as_the_same_scenario(file: Path) -> None:
    """Resolved options, as data or as TOML, describe the scenario they came from, every default spelt out."""
    scenario = load_scenario(file, overrides=["vm.page-cluster=1", "fault.0={at_ms = 1, kind = 'reset'}"])
    options = options_of(scenario)
    assert options["vm"]["page-cluster"] == 1
    assert options["run"]["seed"] == 0
    assert scenario_from(options, origin="options") == scenario
    assert scenario_from(tomllib.loads(scenario_toml(scenario)), origin="toml") == scenario
    assert scenario_from(msgspec.json.decode(msgspec.json.encode(options)), origin="json") == scenario


def test_loading_leaves_the_raw_data_alone() -> None:
    """Overrides go into a copy."""
    data = tomllib.loads(_SCENARIO)
    scenario_from(data, origin="a.toml", overrides=["workload.0.mib=1", "vm.swappiness=1"])
    assert data == tomllib.loads(_SCENARIO)


def _places(data: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value in ``data``."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, item in items for place in [(*path, key), *_places(item, (*path, key))]]


_OPTIONS = options_of(scenario_from(tomllib.loads(_SCENARIO), origin="a.toml"))
_JUNK = [0, -1, 2**70, 1.5, float("nan"), True, None, "", "x\n", "6.1", [], {}, [{}], {"a": 1}, 10**4000]


@given(st.sampled_from(_places(_OPTIONS)), st.sampled_from(_JUNK), st.sampled_from(["replace", "remove", "misspell"]))
def test_any_single_mistake_is_one_line(place: tuple[str | int, ...], junk: object, way: str) -> None:
    """Whatever is replaced, removed or misspelt: a scenario, or one line that names the file; never a traceback."""
    data = deepcopy(_OPTIONS)
    *outer, last = place
    here: Any = data
    for step in outer:
        here = here[step]
    if way == "misspell" and isinstance(last, str):
        here[last[:-1] + "z"] = here.pop(last)
    elif way == "remove":
        del here[last]
    else:
        here[last] = junk
    try:
        scenario_from(data, origin="a.toml")
    except UsageError as error:
        line = str(error)
        assert line.startswith("a.toml: ")
        assert "\n" not in line
