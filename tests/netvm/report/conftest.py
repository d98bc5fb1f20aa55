"""The recorded traces, the plainest reader of them (one regular expression a line), and a browser to be driven."""

import base64
import gzip
import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from netvm.report.profile import Profile, Profiler
from netvm.report.source import open_trace

LINE = re.compile(r"^ *(.{0,16}?)-(\d+) +\[(\d+)\] (\S+) +(\d+)\.(\d+): (\w+): (.*)$")


@dataclass(slots=True)
class Plain:
    """What a trace says, computed line by line."""

    events: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    latencies_us: list[int] = field(default_factory=list)
    unfinished: int = 0
    kswapd_active_us: int = 0
    last_wake_to_sleep_us: int = 0
    scanned: dict[str, int] = field(default_factory=lambda: {"kswapd": 0, "direct": 0})
    reclaimed: dict[str, int] = field(default_factory=lambda: {"kswapd": 0, "direct": 0})
    throttled_us: dict[str, list[int]] = field(default_factory=dict)
    nfs_us: dict[str, list[int]] = field(default_factory=dict)
    nfs_open: int = 0
    pauses_us: list[int] = field(default_factory=list)


def _plain(path: Path) -> Plain:
    """Compute the figures of a trace in the most obvious way."""
    found = Plain()
    begun: dict[str, int] = {}
    calls: dict[tuple[str, ...], list[int]] = {}
    awake: int | None = None
    woke = 0
    with gzip.open(path, "rt") as lines:
        for line in lines:
            match = LINE.match(line)
            if match is None:
                continue
            comm, pid, _, _, second, fraction, event, rest = match.groups()
            now = int(second) * 1_000_000 + int(fraction)
            values = dict(re.findall(r"(\w+)=(\S+)", rest))
            found.events += 1
            found.counts[event] = found.counts.get(event, 0) + 1
            if event == "mm_vmscan_direct_reclaim_begin":
                found.unfinished += pid in begun
                begun[pid] = now
            elif event == "mm_vmscan_direct_reclaim_end" and pid in begun:
                found.latencies_us.append(now - begun.pop(pid))
            elif event == "mm_vmscan_kswapd_wake":
                awake, woke = (now if awake is None else awake), now
            elif event == "mm_vmscan_kswapd_sleep" and awake is not None:
                found.kswapd_active_us += now - awake
                found.last_wake_to_sleep_us += now - woke
                awake = None
            elif event == "mm_vmscan_lru_shrink_inactive":
                who = "kswapd" if comm.startswith("kswapd") else "direct"
                found.scanned[who] += int(values["nr_scanned"])
                found.reclaimed[who] += int(values["nr_reclaimed"])
            elif event == "mm_vmscan_throttled":
                found.throttled_us.setdefault(values["reason"], []).append(int(values["usect_delayed"]))
            elif event == "balance_dirty_pages" and int(values["pause"]) > 0:
                found.pauses_us.append(int(values["pause"]) * 1000)
            elif event.startswith("nfs_"):
                what = event.split("_")[1].replace("readpage", "read").replace("writeback", "write")
                procedure = event.split("_")[2] if what == "initiate" else what
                place = procedure, values["fileid"], values["fhandle"], values["offset"]
                if what == "initiate":
                    calls.setdefault(place, []).append(now)
                elif calls.get(place):
                    found.nfs_us.setdefault(procedure, []).append(now - calls[place].pop(0))
    found.unfinished += len(begun)
    found.nfs_open = sum(map(len, calls.values()))
    return found


def _profile_of(path: Path) -> Profile:
    """Profile a trace."""
    with open_trace(path) as (recorded, batches):
        profiler = Profiler(recorded)
        for batch in batches:
            profiler.add(batch)
    return profiler.profile()


def _vmstat_difference(folder: Path) -> dict[str, int]:
    """Return what the counters of /proc/vmstat grew by during a recorded run."""
    before, after = (
        {name: int(value) for name, value in (line.split() for line in (folder / which).read_text().splitlines())}
        for which in ("vmstat_before", "vmstat_after")
    )
    return {name: value - before.get(name, 0) for name, value in after.items()}


def _summary_of(folder: Path) -> dict[str, Any]:
    """Return the figures that were derived when the run was recorded."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_AS_3_AND_4 = "import os, sys; [os.dup2(int(sys.argv[n - 2]), n) for n in (3, 4)]; os.execv(sys.argv[3], sys.argv[3:])"
_SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
)
_KEYS = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
_KEYS["ArrowDown"] = 40


class Browser:
    """One page of a headless Chromium, driven over the DevTools protocol by a pair of pipes."""

    def __init__(self, binary: str, folder: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _AS_3_AND_4, str(commands), str(answers)),
                *(binary, *_SWITCHES, f"--user-data-dir={folder}"),
            ],
            pass_fds=(commands, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._pending = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self._told: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            assert select.select([self._answers], [], [], 60)[0], "the browser says nothing"
            data = os.read(self._answers, 1 << 16)
            assert data, "the browser has gone"
            self._pending += data
        text, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        text = json.dumps({"id": self._number, "method": method, "params": params, **self._session}).encode() + b"\0"
        while text:
            text = text[os.write(self._commands, text) :]
        while (message := self._next()).get("id") != self._number:
            self._told.append(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def open(self, page: Path, *, width: int = 1200) -> None:
        """Load a page and forget what the last one said."""
        self._told.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=page.as_uri())
        while not any(message.get("method") == "Page.loadEventFired" for message in self._told):
            self._told.append(self._next())

    def resize(self, width: int) -> None:
        """Give the window another width and wait until the page has drawn itself again."""
        before = "window.drawnBefore = document.querySelector('main').firstElementChild"
        self.ask(f"{before}; undefined")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("""new Promise((resolve) => { const look = () => window.drawnBefore.isConnected ? setTimeout(look, 20)
            : resolve(); look(); })""")

    def show(self, *, media: str = "", scheme: str = "light") -> None:
        """Show the page as a printer would, or in a scheme of colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def ask(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            named = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": _KEYS[key]}
            self.send("Input.dispatchKeyEvent", type="rawKeyDown", **named)
            self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def click(self, selector: str) -> None:
        """Click the middle of the first element that a selector finds."""
        place = (
            f"(async (node) => {{ node.scrollIntoView({{block: 'center'}}); await new Promise(requestAnimationFrame); "
            "const at = node.getBoundingClientRect(); return [at.x + at.width / 2, at.y + at.height / 2] }"
            f")(document.querySelector({json.dumps(selector)}))"
        )
        x, y = self.ask(place)
        for kind, button in (("mouseMoved", "none"), ("mousePressed", "left"), ("mouseReleased", "left")):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=int(button == "left"))

    def printed(self) -> bytes:
        """Return the page as a PDF of A4."""
        answer = self.send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])

    def console(self) -> list[dict[str, Any]]:
        """Return what the page has said on its console, exceptions too."""
        told = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        return [message for message in self._told if message.get("method") in told]

    def close(self) -> None:
        """End the browser."""
        self.send("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; where there is none the test is skipped."""
    if _CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    driven = Browser(_CHROMIUM, tmp_path_factory.mktemp("chromium"))
    yield driven
    driven.close()


@pytest.fixture
def trace_file(tmp_path: Path) -> Any:
    """A function that writes ftrace text to a file and returns its path."""

    def write(text: str, name: str = "trace.txt") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def plain() -> Callable[[Path], Plain]:
    """What a trace says, computed line by line."""
    return _plain


@pytest.fixture
def profile_of() -> Callable[[Path], Profile]:
    """What netvm says of a trace."""
    return _profile_of


@pytest.fixture
def vmstat_difference() -> Callable[[Path], dict[str, int]]:
    """What /proc/vmstat says of a recorded run."""
    return _vmstat_difference


@pytest.fixture
def summary_of() -> Callable[[Path], dict[str, Any]]:
    """The figures of a recorded run."""
    return _summary_of
