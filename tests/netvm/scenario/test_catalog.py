"""Catalogue: scenarios by name, folders in the order in which they are told, and hints for what is not there."""

from pathlib import Path

import pytest

from netvm.errors import UsageError
from netvm.scenario.catalog import Entry, entries, find, scenarios_root
from netvm.scenario.load import load_scenario


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a small catalogue beside an empty working directory."""
    catalogue = tmp_path / "scenarios"
    for name in (
        "R1/nbd-cure",
        "R1/nbd-broken",
        "R1/nbd-fixed",
        "R1/iscsi-fixed",
        "R1/iscsi-broken",
        "A9/broken",
        "plain",
    ):
        path = catalogue / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('title = "T"\n')
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return catalogue


def _names(argument: str, root: Path) -> list[str]:
    return [named.name for named in find(argument, root)]


def test_a_name_is_one_scenario(root: Path) -> None:
    """A full name, with or without its suffix, is that file."""
    assert _names("R1/nbd-broken", root) == ["R1/nbd-broken"]
    assert _names("R1/nbd-broken.toml", root) == ["R1/nbd-broken"]
    assert find("plain", root)[0].path == root / "plain.toml"


def test_a_folder_is_all_its_arms(root: Path) -> None:
    """Pairs stay together, the broken arm before the fixed one before the cure."""
    told = ["R1/iscsi-broken", "R1/iscsi-fixed", "R1/nbd-broken", "R1/nbd-fixed", "R1/nbd-cure"]
    assert _names("R1", root) == told
    assert _names("R1/", root) == told


def test_a_pair_is_its_arms(root: Path) -> None:
    """The name that the museum gives a pair is all arms of it, and of no other that begins alike."""
    assert _names("R1/nbd", root) == ["R1/nbd-broken", "R1/nbd-fixed", "R1/nbd-cure"]
    assert _names("R1/iscsi", root) == ["R1/iscsi-broken", "R1/iscsi-fixed"]


def test_a_file_of_the_user_comes_before_a_shipped_name(root: Path) -> None:
    """A path that is a file is that file, even where a shipped scenario has the name."""
    Path("plain").write_text("")
    assert find("plain", root)[0].path == Path("plain")


def test_a_folder_of_the_user_is_all_its_files(root: Path) -> None:
    """The files of a folder are named by their paths, and sorted as the catalogue is."""
    Path("mine").mkdir()
    for arm in ("fixed", "broken"):
        Path(f"mine/x-{arm}.toml").write_text("")
    assert _names("mine", root) == ["mine/x-broken.toml", "mine/x-fixed.toml"]


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("R1/nbd-brokn", "R1/nbd-brokn: no such file, and no scenario of this name; did you mean R1/nbd-broken?"),
        ("", "'': no such file, and no scenario of this name; see `netvm list`"),
        ("r1", "r1: no such file, and no scenario of this name; did you mean R1?"),
        ("a9/Broken.toml", "a9/Broken.toml: no such file, and no scenario of this name; did you mean A9/broken?"),
        ("zzz", "zzz: no such file, and no scenario of this name; see `netvm list`"),
        (".", ".: a directory without any .toml file; must be a scenario file or a folder of them"),
    ],
)
def test_unknown_names_get_a_hint(root: Path, argument: str, line: str) -> None:
    """A name that is nowhere is told with the nearest one there is."""
    with pytest.raises(UsageError) as caught:
        find(argument, root)
    assert str(caught.value) == line


def test_an_overlong_name_is_a_usage_error(root: Path) -> None:
    """What the file system itself refuses is told, not raised."""
    with pytest.raises(UsageError, match="File name too long"):
        find("x" * 5000, root)


def test_entries_show_what_a_file_says(root: Path) -> None:
    """A line of the list has exhibit, arm, kernel, expected verdicts and source; what is left out has its default."""
    (root / "R1/nbd-broken.toml").write_text(
        'expect = ["HANG", "OOM"]\n[exhibit]\nid = "R1"\narm = "broken"\ntitle = "E"\nsource = "S"\n'
        '[kernel]\npreset = "3.6"\n'
    )
    listed = {entry.name: entry for entry in entries(root)}
    assert listed["R1/nbd-broken"] == Entry("R1/nbd-broken", "R1", "broken", "3.6", ("HANG", "OOM"), "E", "S")
    assert listed["plain"] == Entry("plain", "", "", "6.1", ("COMPLETED",), "T", "")


def test_a_broken_file_is_named(root: Path) -> None:
    """A catalogue file that is no TOML is a usage error, not a traceback."""
    (root / "plain.toml").write_text("x =")
    with pytest.raises(UsageError, match=r"plain\.toml: not TOML"):
        entries(root)


def test_every_shipped_scenario_loads() -> None:
    """What is shipped is valid, and what its line in the list says is what it runs."""
    for entry in entries():
        (named,) = find(entry.name)
        scenario = load_scenario(named.path)
        assert (scenario.kernel.preset, tuple(scenario.expect)) == (entry.kernel, entry.expect)


def test_the_shipped_scenarios_are_found() -> None:
    """The catalogue of this checkout is a folder that exists."""
    assert scenarios_root().is_dir()
