"""What the tests of the environments share: the real clock, and whether this machine can."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from perdure.core.errors import Unavailable
from perdure.environments.bubblewrap import Bubblewrap
from perdure.environments.process import Process
from perdure.stores.system import SystemClock


def bubblewrap(root: Path, workspace_bytes: int = 1024**3) -> Bubblewrap:
    """Return sandboxed environments below `root`."""
    return Bubblewrap(root, SystemClock(), workspace_bytes=workspace_bytes)


def process(root: Path) -> Process:
    """Return environments without isolation below `root`."""
    return Process(root, SystemClock(), allow=True)


def why_no_sandbox() -> str:
    """Return why this machine cannot sandbox, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(bubblewrap(Path(folder)).prove())
        except Unavailable as error:
            return f"{error} {error.hint}"
    return ""


def needs_sandbox() -> list[pytest.MarkDecorator]:
    """Return the marks of tests that need a real sandbox: `pytestmark = needs_sandbox()`.

    Without one they are skipped loudly, or fail under PERDURE_REQUIRE_SANDBOX=1.
    """
    why = "" if os.environ.get("PERDURE_REQUIRE_SANDBOX") == "1" else why_no_sandbox()
    return [pytest.mark.sandbox, pytest.mark.skipif(bool(why), reason=f"NO SANDBOX HERE: {why}")]
