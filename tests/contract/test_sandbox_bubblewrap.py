"""The sandbox contract on bubblewrap."""

from pathlib import Path

from perdure.ports.sandbox import Environments
from perdure.testing.sandbox_contract import SandboxContract
from tests.environments.doubles import bubblewrap, needs_sandbox

pytestmark = needs_sandbox()


class TestBubblewrap(SandboxContract):
    def environments(self, root: Path) -> Environments:
        return bubblewrap(root)
