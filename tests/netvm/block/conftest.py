"""The small host of the tests of ``mm``, for the rooms that stand on it."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("mini_host", Path(__file__).parents[1] / "mm" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

make_host = _module.make_host
host = _module.host
