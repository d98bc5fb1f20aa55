"""Small abstract machines to explore."""

from collections.abc import Callable

import pytest

from netvm.explore.subject import Subject
from netvm.scenario.load import scenario_from


@pytest.fixture
def machine() -> Callable[..., Subject]:
    """Make the abstract machine of these keys a subject."""

    def make(*, max_steps: int = 1500, **keys: object) -> Subject:
        data = {"abstract": keys, "run": {"max_steps": max_steps}}
        return Subject(scenario=scenario_from(data, origin="test"), name="abstract")

    return make
