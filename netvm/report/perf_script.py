"""``perf script`` text, in: ``comm pid [cpu] seconds: group:event: fields``, and stacks, which are passed over.

The fields are those of ftrace text, since perf prints them with the same formats; only the left part differs. Lines are
read one by one.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from netvm.report.ftraceline import LineReader
from netvm.trace.records import RECORD, RecordArray, Recorded

__all__ = ["PERF_PREFIX", "read_perf_script"]

PERF_PREFIX: Final = re.compile(
    r" *(?P<comm>\S.*?) +(?:\d+/)?(?P<pid>\d{1,10}) +\[(?P<cpu>\d{1,10})\] +"
    r"(?P<second>\d{1,20})\.(?P<fraction>\d{6,9}): +(?:\d+ +)?(?:[A-Za-z_]\w*:)?(?P<event>[A-Za-z_]\w*):(?P<rest>.*)"
)
_STACK: Final = re.compile(r"\s+[0-9a-f]+ .*|\s*")
_BATCH: Final = 8192


def read_perf_script(
    pieces: Iterable[bytes], recorded: Recorded, *, keep_payload: bool = False
) -> Iterator[RecordArray]:
    """Generate the records of what ``perf script`` printed."""
    reader = LineReader(recorded, keep_payload=keep_payload, prefix=PERF_PREFIX)
    batch: RecordArray = np.zeros(_BATCH, dtype=RECORD)
    nr = 0
    for line in _lines(pieces):
        if _STACK.fullmatch(line):
            continue
        if reader.read(line, batch[nr]):
            nr += 1
            if nr == _BATCH:
                yield batch
                batch = np.zeros(_BATCH, dtype=RECORD)
                nr = 0
        else:
            batch[nr] = np.zeros((), dtype=RECORD)
    if nr:
        yield batch[:nr]


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "backslashreplace").rstrip("\r")
    if rest:
        yield rest.decode("utf-8", "backslashreplace")
