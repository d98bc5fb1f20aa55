"""``main``: find the verb, call it, and turn whatever ends it into one line and an exit code.

Exit codes: 0 the verdict is as expected; 1 it is not; 2 usage or scenario error, or output that cannot be written; 3
the budget ran out; 130 interrupted; 141 the reader of a pipe went away. A traceback is a bug of netvm's, never the
answer to something a user typed.

A verb is a module beside this one with ``add_arguments(parser)`` and ``call(arguments)``. Only the verb that is asked
for is imported, and it imports late what it needs: ``--help`` and ``list`` answer at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

from netvm import __version__
from netvm.cli.output import EXIT_SIGPIPE, complain, emit, finish, silence
from netvm.errors import BudgetExceededError, NetvmError, UsageError

__all__ = ["EXIT_BUDGET", "EXIT_EXPECTED", "EXIT_INTERRUPTED", "EXIT_UNEXPECTED", "EXIT_USAGE", "main"]

EXIT_EXPECTED: Final = 0
EXIT_UNEXPECTED: Final = 1
EXIT_USAGE: Final = 2
EXIT_BUDGET: Final = 3
EXIT_INTERRUPTED: Final = 130


class _Verb(NamedTuple):
    module: str
    summary: str


_VERBS: Final = {
    "list": _Verb("netvm.cli.list", "list the shipped scenarios"),
    "run": _Verb("netvm.cli.run", "run scenarios and say whether the host survives, and why"),
    "matrix": _Verb("netvm.cli.matrix", "run the museum's exhibits side by side: one table of verdicts"),
    "explain": _Verb("netvm.cli.explain", "tell an exhibit: mechanism, source, fix, and who waits for whom in its run"),
    "check": _Verb("netvm.cli.check", "look for a schedule that hangs, and say how sure it is that there is none"),
    "size": _Verb("netvm.cli.size", "find the smallest safe value of a knob, such as the reserve"),
    "order": _Verb("netvm.cli.order", "find out from a calm run where cleaning memory would wait for memory"),
    "replay": _Verb("netvm.cli.replay", "run a recorded result or a reproducer again and compare"),
    "import-run": _Verb("netvm.cli.import_run", "write the scenario of a run recorded on a real machine"),
    "profile": _Verb("netvm.cli.profile", "read a trace, real or emulated: who waited for memory, for what, how long"),
    "diff": _Verb("netvm.cli.diff", "hold two traces or profiles against each other"),
    "report": _Verb("netvm.cli.report_page", "write a page that shows a recording"),
    "capture": _Verb("netvm.cli.capture", "record reclaim on this machine"),
    "import-host": _Verb("netvm.cli.import_host", "write a scenario skeleton of a captured machine"),
    "export": _Verb("netvm.cli.export", "write a trace in another format: ftrace text, Perfetto, trace.dat, ..."),
    "schema": _Verb("netvm.cli.schema", "print the JSON Schema of scenario files, for editors"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if sys.flags.optimize:
        complain("refuses to run under python -O: asserts are part of the product")
        return EXIT_USAGE
    try:
        code = _call(sys.argv[1:] if argv is None else argv)
        finish()
    except BrokenPipeError:
        code = EXIT_SIGPIPE
    except BudgetExceededError as error:
        code = _failed(str(error), EXIT_BUDGET)
    except NetvmError as error:
        code = _failed(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        code = _failed("interrupted", EXIT_INTERRUPTED)
    if code == EXIT_SIGPIPE:
        silence(sys.stdout)
    return code


def _failed(message: str, code: int) -> int:
    """Let what was printed before the failure reach its reader, then say what failed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        silence(sys.stdout)
    complain(message)
    return code


def _call(argv: Sequence[str]) -> int:
    if not argv:
        raise UsageError(f"no verb given; must be one of {', '.join(_VERBS)}; see `netvm --help`")
    verb, *rest = argv
    if verb in ("-h", "--help"):
        emit(_help())
        return EXIT_EXPECTED
    if verb in ("-V", "--version"):
        emit(f"netvm {__version__}")
        return EXIT_EXPECTED
    if verb not in _VERBS:
        from netvm.cli.arguments import did_you_mean

        what = "option" if verb.startswith("-") else "verb"
        known = ["--help", "--version"] if what == "option" else list(_VERBS)
        raise UsageError(f"unknown {what} {verb!r}; {did_you_mean(verb, known)}")
    return _call_verb(verb, rest)


def _call_verb(verb: str, argv: Sequence[str]) -> int:
    from netvm.cli.arguments import Parser

    module = import_module(_VERBS[verb].module)
    parser = Parser(verb, (module.__doc__ or "").partition("\n\n")[2].strip())
    module.add_arguments(parser)
    before_names = argv[: argv.index("--")] if "--" in argv else argv
    if "-h" in before_names or "--help" in before_names:
        emit(parser.format_help().rstrip())
        return EXIT_EXPECTED
    code: int = module.call(parser.read(argv))
    return code


def _help() -> str:
    width = max(len(verb) for verb in _VERBS)
    return "\n".join(
        [
            "usage: netvm VERB ...",
            "",
            "Emulate a Linux host that swaps over the network under memory pressure: does it survive, and why?",
            "",
            "verbs:",
            *(f"  {name:{width}}  {verb.summary}" for name, verb in _VERBS.items()),
            "",
            "options:",
            "  -h, --help     show this, or with a verb what the verb takes",
            "  -V, --version  show the version",
            "",
            "exit codes: 0 verdict as expected, 1 not as expected, 2 usage or scenario error, 3 budget ran out,",
            "            130 interrupted, 141 the reader of a pipe went away",
        ]
    )
