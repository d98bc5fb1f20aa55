"""Many drawn scenarios, each examined: memory is exact and nothing is lost, whatever happens to the host.

    python benchmarks/integrity.py --out FILE [--first N] [--count N] [--cut SECONDS]

Each finding is one line of JSON in the file, written at once; seeds that are there already are not run again, so an
interrupted run goes on where it was. At the end the file as a whole is summed up, and every finding that must not be is
printed with its seed. A run that takes more CPU time than ``--cut`` is given up; it and those whose own budget ran out
are counted by what ended them: they were audited on the way. See :mod:`netvm.testing.integrity` for what is drawn and
what must hold.
"""

import argparse
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec
from yardstick import seconds

from netvm.testing.integrity import Finding, examine


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the file."""

    finding: Finding
    cpu_s: float


def run_one(seed: int, cut_s: float) -> _Row:
    """Examine one seed, for so much CPU time at most. Raises KeyboardInterrupt on Ctrl-C."""
    begun = seconds()
    is_over = False

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        nonlocal is_over
        is_over = True
        # which the run takes between two steps of the model
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, cut_s)
    try:
        finding = examine(seed)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if finding.cut == "given up" and not is_over:
        raise KeyboardInterrupt
    return _Row(finding=finding, cpu_s=round(seconds() - begun, 3))


def rows_of(path: Path) -> list[_Row]:
    """Return the findings of a file; a line that an interruption has left half is not one."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]
    return [msgspec.json.decode(line, type=_Row) for line in whole]


def print_summary(rows: Sequence[_Row]) -> None:
    """Print what the runs came to, and what must not be."""
    ends = [row.finding.verdict or row.finding.cut or "exception" for row in rows]
    verdicts = Counter(end if end.isupper() else f"without a verdict ({end})" for end in ends)
    audits = sum(row.finding.nr_audits + 1 for row in rows)
    written = sum(row.finding.nr_pages_written for row in rows)
    cpu_s = sum(row.cpu_s for row in rows)
    print(f"{len(rows)} scenarios, {audits} audits, {written} pages written, {cpu_s:.0f} s of CPU")
    print(", ".join(f"{verdict} {nr}" for verdict, nr in verdicts.most_common()))
    wrong = [row.finding for row in rows if row.finding.wrong]
    print(f"{len(wrong)} with what must not be")
    for finding in wrong:
        print(f"  seed {finding.seed} ({finding.verdict}): {'; '.join(finding.wrong[:2])}")


def main() -> None:
    """Run what is missing, then sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--cut", type=float, default=10.0, help="CPU seconds a run")
    arguments = parser.parse_args()
    done = {row.finding.seed for row in rows_of(arguments.out)}
    with arguments.out.open("a", encoding="utf-8") as out:
        for seed in range(arguments.first, arguments.first + arguments.count):
            if seed not in done:
                out.write(msgspec.json.encode(run_one(seed, arguments.cut)).decode() + "\n")
                out.flush()
    print_summary(rows_of(arguments.out))


if __name__ == "__main__":
    main()
