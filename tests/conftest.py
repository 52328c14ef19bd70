"""What holds for every test: a skipped sandbox test is a failure where a sandbox is required."""

import os
from collections.abc import Generator

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
    """Turn the skip of a `sandbox` test into a failure under PERDURE_REQUIRE_SANDBOX=1."""
    report = yield
    required = os.environ.get("PERDURE_REQUIRE_SANDBOX") == "1"
    if report.skipped and required and item.get_closest_marker("sandbox"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs the sandbox and was skipped: {report.longrepr}"
    return report
