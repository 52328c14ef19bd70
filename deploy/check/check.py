"""`make check-deploy`: what can be checked of deploy/ without a cluster, by others' linters.

hadolint for the Dockerfile, yamllint for YAML, the Compose specification for compose.yaml; Helm's
own lint and templates for the chart, and the schemas of Kubernetes for what comes out, for the
oldest version that the chart admits and the newest that is known.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_spec
import helm_python as helm
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).resolve().parents[1]
CHART = DEPLOY / "helm" / "perdure"
BIN = Path(sys.executable).parent
OLDEST = "1.30.0"
WARNING = 2
VARIABLE = re.compile(r"\$\{(\w+):[-?][^}]*\}")
SANDBOXES = "1.33.0"  # from here on a pod may have a user namespace without a gate of the cluster


def main() -> int:
    """Check everything; print what is wrong. The status is 1 when anything is."""
    troubles = [
        *dockerfile(),
        *yaml_style(),
        *compose(),
        *chart({}, OLDEST),
        *chart(yaml.safe_load((CHART / "ci" / "all-values.yaml").read_text()), SANDBOXES),
        *grace({}),
        *grace({"drainSeconds": 300, "preStopSeconds": 30}),
        *refused(),
    ]
    said = "\n".join(troubles) or "deploy/: Dockerfile, compose.yaml and the chart are in order"
    sys.stdout.write(said + "\n")
    return 1 if troubles else 0


def dockerfile() -> Iterator[str]:
    """hadolint."""
    yield from _told([BIN / "hadolint", DEPLOY / "Dockerfile"])


def yaml_style() -> Iterator[str]:
    """yamllint, of all YAML that is no template."""
    files = [
        path for path in DEPLOY.rglob("*.yaml") if "templates" not in path.relative_to(DEPLOY).parts
    ]
    config = DEPLOY / "check" / "yamllint.yaml"
    yield from _told([BIN / "yamllint", "--strict", "-c", config, *sorted(files)])


def compose() -> Iterator[str]:
    """The Compose specification, with the variables filled in."""
    text = VARIABLE.sub("value", (DEPLOY / "compose.yaml").read_text())
    plain = yaml.safe_load(text)
    plain = {name: value for name, value in plain.items() if not name.startswith("x-")}
    try:
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(plain)).to_spec()
    except ValueError as error:
        yield f"compose.yaml: {error}"
    for name, service in plain["services"].items():
        yield from (
            f"compose.yaml: {name} depends on {other}, which is not there"
            for other in service.get("depends_on", {})
            if other not in plain["services"]
        )


def chart(values: dict[str, Any], oldest: str) -> Iterator[str]:
    """Helm's lint and templates, and the schemas of Kubernetes."""
    found = helm.lint(CHART, values, strict=True, kube_version=f"v{oldest}")
    yield from (
        f"helm lint: {message['path']}: {message['error']}"
        for message in found["messages"]
        if message["severity"] >= WARNING
    )
    for version in (oldest, kubernetes_validate.latest_version()):
        for path, document in rendered(values):
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(step) for step in error.path)
                yield f"Kubernetes {version}: {path}: {where}: {error.message}"


def rendered(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object that the chart makes."""
    loaded = helm.Chart.load(CHART)
    try:
        texts = loaded.render(values, name="perdure", namespace="agents")
    finally:
        loaded.close()
    for path, text in sorted(texts.items()):
        if path.endswith(".yaml"):
            yield from ((path, each) for each in yaml.safe_load_all(text) if each)


def grace(values: dict[str, Any]) -> Iterator[str]:
    """A pod is never killed before it has had the time that its own perdure.toml gives it."""
    objects = {document["kind"]: document for _, document in rendered(values)}
    told = tomllib.loads(objects["ConfigMap"]["data"]["perdure.toml"])["server"]["drain_s"]
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    waits = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    if pod["terminationGracePeriodSeconds"] <= told + waits:
        yield f"the chart kills a node that still drains: {values}"


def refused() -> Iterator[str]:
    """What must not be: values that the chart's schema or its templates have to refuse."""
    for values in ({"nodes": 0}, {"drainSeconds": "long"}, {"secret": {"name": ""}}):
        loaded = helm.Chart.load(CHART)
        try:
            loaded.render(values, name="perdure", namespace="agents")
        except helm.HelmError:
            continue
        finally:
            loaded.close()
        yield f"the chart takes {values}"


def _told(words: list[Any]) -> Iterator[str]:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield (done.stdout + done.stderr).strip()


if __name__ == "__main__":
    sys.exit(main())
