"""The sandbox contract on plain processes: the same, but for what only isolation gives."""

from pathlib import Path

from perdure.ports.sandbox import Environments
from perdure.testing.sandbox_contract import SandboxContract
from tests.environments.doubles import process


class TestProcess(SandboxContract):
    kind = "process"

    def environments(self, root: Path) -> Environments:
        return process(root)
