"""``netvm order``: find out from a calm run where cleaning memory would wait for memory.

Watch a run without pressure from outside and report, like lockdep's fs_reclaim, each request for memory on the cleaning
path that is backed neither by the reserve nor by a mempool: who asks, in which code path, on which code path reclaim
comes to depend on it, which gfp context would cut the cycle, and the historic deadlock it resembles.

Exit code: 0 no cycle, 1 cycles, 2 usage or scenario error, 3 the run cleaned nothing and shows nothing.
"""

import argparse

from netvm.cli.arguments import add_overrides
from netvm.cli.output import emit, finish
from netvm.errors import UsageError

__all__ = ["add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", metavar="NAME|FILE", help="the scenario")
    add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def call(arguments: argparse.Namespace) -> int:
    """Watch, and print every cycle."""
    import msgspec

    from netvm.explore.order import check_order, text_of
    from netvm.scenario.catalog import find
    from netvm.scenario.load import load_scenario

    named = find(arguments.name)
    if len(named) > 1:
        raise UsageError(f"order: {arguments.name} is several scenarios: {', '.join(n.name for n in named)}; name one")
    report = check_order(load_scenario(named[0].path, overrides=arguments.overrides), named[0].name)
    emit(msgspec.json.encode(report).decode() if arguments.json else text_of(report))
    finish()
    if report.cycles:
        return 1
    return 0 if report.pages_cleaned else 3
