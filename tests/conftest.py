"""What holds for every test: where a sandbox or a database is required, a skip is a failure."""

import logging
import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

# The first test on a fresh checkout pays for reading all our modules: Hypothesis looks there for
# constants. Slowness of that kind says nothing about a test.
settings.register_profile("perdure", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("perdure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a `sandbox` test into a failure under PERDURE_REQUIRE_SANDBOX=1, and that of
    a `postgres` test under PERDURE_REQUIRE_POSTGRES=1.
    """
    report = yield
    for need in ("sandbox", "postgres"):
        required = os.environ.get(f"PERDURE_REQUIRE_{need.upper()}") == "1"
        if report.skipped and required and item.get_closest_marker(need):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} needs {need} and was skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def logging_is_on() -> Iterator[None]:
    """Simulated runs switch logging off, for the whole process: it is no other test's silence."""
    yield
    logging.disable(logging.NOTSET)
