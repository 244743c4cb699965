"""What all tests share: the hypothesis profile and the way to the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run; machines differ in speed, so no deadline.
settings.register_profile(
    "islet",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("islet")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real CTs: ``$ISLET_DATA``, else ``shared/data`` in or beside the checkout."""
    checkout = Path(__file__).resolve().parents[1]
    named = os.environ.get("ISLET_DATA")
    places = (
        [Path(named)]
        if named
        else [checkout / "shared" / "data", checkout.parent / "shared" / "data"]
    )
    for place in places:
        if (place / "ct" / "index.json").is_file():
            return place
    pytest.skip("no real CTs: $ISLET_DATA is not set and shared/data is not beside the checkout")
