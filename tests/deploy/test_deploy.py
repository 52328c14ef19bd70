"""What deploy/ promises to Perdure itself. What linters can see is in deploy/check, run below when
they are there: `make check-deploy` installs them.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from perdure.config import Project, load_project
from perdure.serving.names import check_models
from tests.tidy.sources import ROOT

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "perdure"
LINTERS = ROOT / ".venv-deploy"


def compose() -> dict[str, Any]:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:[-?][^}]*\}", "value", text))
    return found


def nodes() -> dict[str, dict[str, Any]]:
    services = compose()["services"]
    return {name: each for name, each in services.items() if "PERDURE_STORE" in str(each)}


def project(folder: Path, environ: dict[str, str]) -> Project:
    return load_project(folder, environ)


@pytest.mark.slow
def test_the_linters_find_nothing() -> None:
    if not (LINTERS / ".stamp").exists():
        assert os.environ.get("PERDURE_REQUIRE_DEPLOY") != "1", "run: make check-deploy"
        pytest.skip("NOT CHECKED: deploy/ by its linters. Run: make check-deploy")

    done = subprocess.run(
        [LINTERS / "bin" / "python", DEPLOY / "check" / "check.py"],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_two_nodes_on_one_store_at_least() -> None:
    stores = [node["environment"]["PERDURE_STORE"] for node in nodes().values()]

    assert len(stores) >= 2
    assert len(set(stores)) == 1


def test_the_project_of_compose_is_one_and_its_model_can_be_had() -> None:
    (environ, *_) = [node["environment"] for node in nodes().values()]

    found = project(DEPLOY / "project", environ)

    assert found.store_url == environ["PERDURE_STORE"]
    assert found.settings.blobs == environ["PERDURE_BLOBS"]
    check_models(found.settings.server.models)
    (spec,) = found.settings.server.models.values()
    assert (DEPLOY / "project" / spec.removeprefix("scripted:")).exists()


def test_a_node_may_end_in_order_before_it_is_killed() -> None:
    drain_s = project(DEPLOY / "project", {}).settings.server.drain_s

    for node in nodes().values():
        assert int(node["stop_grace_period"].removesuffix("s")) > drain_s


def test_the_chart_s_own_project_is_one(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    text = values["project"].replace("{{ .Values.drainSeconds }}", str(values["drainSeconds"]))
    assert "{{" not in text
    (tmp_path / "perdure.toml").write_text(text)

    assert project(tmp_path, {}).settings.server.drain_s == values["drainSeconds"]


def test_what_is_probed_is_there() -> None:
    served = (ROOT / "perdure" / "doors" / "server.py").read_text(encoding="utf-8")
    probed = re.findall(r"path: (/\w+)", (CHART / "templates" / "deployment.yaml").read_text())
    probed += re.findall(r"8700(/\w+)", (DEPLOY / "compose.yaml").read_text(encoding="utf-8"))

    assert {"/healthz", "/readyz"} == set(probed)
    assert all(f'"{path}"' in served for path in probed)


def test_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    sources = [source for line in lines for source in line.split()]

    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_every_variable_is_one_that_perdure_knows() -> None:
    texts = [
        path.read_text(encoding="utf-8")
        for path in (DEPLOY / "compose.yaml", CHART / "templates" / "_helpers.tpl")
    ]
    documented = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    for name in set(re.findall(r"\bPERDURE_\w+", "\n".join(texts))):
        assert f"`{name}`" in documented, name


def test_every_table_has_its_statement_for_a_database_spread_over_machines() -> None:
    folder = ROOT / "perdure" / "stores" / "sql" / "postgres" / "migrations"
    made = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql")))
    text = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
    keyed = set(re.findall(r"create_distributed_table\('(\w+)', 'session'", text))
    named = set(re.findall(r"^SELECT \w+\('(\w+)'", text, re.MULTILINE)) - {"migrations"}

    assert named == set(re.findall(r"^CREATE TABLE (\w+)", made, re.MULTILINE))
    for table in keyed:
        body = made.split(f"CREATE TABLE {table} (", 1)[1].split("\n)", 1)[0]
        assert body.lstrip().startswith("session text"), table
        assert re.search(r"PRIMARY KEY \(session|^\s*session .* PRIMARY KEY", body), table
