"""From what was typed (`mender`, `agent.py:mender`, `mender.toml`) to an `Agent`.

The project's own code runs here, so whatever it raises is shown with its file and line, never ours.
"""

import difflib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from perdure.config import AgentConfig, EnvironmentConfig, McpConfig, Project, read_toml
from perdure.core.agent import Compaction, EnvironmentSpec, Limits, RetryPolicy
from perdure.core.errors import InvalidRequest, NotFound, PerdureError
from perdure.core.secrets import Secret
from perdure.engine.agent import Agent

_SCRIPTED: Final = "scripted:"


@dataclass(frozen=True)
class Overrides:
    """What a command line says over an agent's own definition."""

    model: str = ""
    in_place: bool = False
    unsandboxed: bool = False
    limits: tuple[str, ...] = ()


def load_agent(ref: str, project: Project, overrides: Overrides) -> Agent:
    """Return the agent that `ref` names.

    Raises `NotFound` (E-AGENT-UNKNOWN), `InvalidRequest` (E-AGENT-FILE, E-AGENT-WORKSPACE).
    """
    agent, folder = _load(ref, project)
    return _placed(_overridden(agent, overrides), folder)


def load_agents(ref: str, project: Project) -> list[Agent]:
    """Return the agents that `ref` names: of a Python file without a name in it, all.

    Raises as `load_agent` does.
    """
    file = Path(ref)
    if ref in project.settings.agents or file.suffix != ".py":
        return [load_agent(ref, project, Overrides())]
    module = load_module(_existing(file))
    found = {id(value): value for value in vars(module).values() if isinstance(value, Agent)}
    if not found:
        raise InvalidRequest("E-AGENT-FILE", f"{file} defines no Agent.", _choices(file, {}))
    return [_placed(agent, file.resolve().parent) for agent in found.values()]


def _placed(agent: Agent, folder: Path) -> Agent:
    """Name the scripts of an agent by paths that lead to them from here."""
    names = [_findable(name, folder) for name in (agent.model, *agent.fallbacks)]
    return replace(agent, model=names[0], fallbacks=names[1:])


def _load(ref: str, project: Project) -> tuple[Agent, Path]:
    if ref in project.settings.agents:
        config = project.settings.agents[ref]
        return _from_config(config, ref, project.root, project), project.root
    path, _, name = ref.partition(":")
    file = Path(path)
    if file.suffix == ".py":
        return _from_python(file, name), file.resolve().parent
    if file.suffix == ".toml":
        config = read_toml(_existing(file), AgentConfig, "E-AGENT-FILE")
        folder = file.resolve().parent
        return _from_config(config, config.name or file.stem, folder, project), folder
    raise _unknown(ref, project)


def _unknown(ref: str, project: Project) -> NotFound:
    known = list(project.settings.agents)
    near = [f"{p.name}" for p in sorted(Path.cwd().glob("*.py")) if "Agent(" in _head(p)]
    close = difflib.get_close_matches(ref, known, n=1)
    hint = (
        f"Did you mean {close[0]}?"
        if close
        else "Known here: " + ", ".join([*known, *near])
        if known or near
        else "perdure new myagent    makes one"
    )
    where = project.file or f"{project.root} (no perdure.toml there or above)"
    return NotFound("E-AGENT-UNKNOWN", f"There is no agent {ref!r} in {where}.", hint)


def _head(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(64 * 1024)
    except OSError:
        return ""


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise NotFound("E-AGENT-UNKNOWN", f"There is no file {file}.", "perdure new myagent")
    return file


def _from_python(file: Path, name: str) -> Agent:
    module = load_module(_existing(file))
    agents = {n: v for n, v in vars(module).items() if isinstance(v, Agent)}
    if name:
        found = getattr(module, name, None)
        if isinstance(found, Agent):
            return found
        raise InvalidRequest(
            "E-AGENT-FILE", f"{file} has no Agent called {name!r}.", _choices(file, agents)
        )
    if len({id(agent) for agent in agents.values()}) != 1:
        what = "defines no Agent" if not agents else "defines several agents"
        raise InvalidRequest("E-AGENT-FILE", f"{file} {what}.", _choices(file, agents))
    return next(iter(agents.values()))


def _choices(file: Path, agents: Mapping[str, Agent]) -> str:
    if not agents:
        return 'Write for example:  helper = Agent("helper", model="…", tools=[…])'
    return "One of: " + ", ".join(f"{file}:{name}" for name in agents)


def load_module(file: Path) -> ModuleType:
    """Import a Python file by its path, its folder being searched for what it imports.

    Raises `InvalidRequest` (E-AGENT-FILE) with the file and line where it failed.
    """
    path = file.resolve()
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None or name in sys.stdlib_module_names:
        name = f"perdure_agent_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except PerdureError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's module does
        del sys.modules[name]
        raise _broken(file, error) from error
    return module


def _broken(file: Path, error: BaseException) -> InvalidRequest:
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
        what = f"SyntaxError: {error.msg}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        folder = str(file.resolve().parent)
        own = [f for f in frames if f.filename.startswith(folder)] or list(frames)
        where = f"{own[-1].filename}:{own[-1].lineno}"
    return InvalidRequest("E-AGENT-FILE", f"{file} cannot be loaded: {what}", f"Look at {where}")


def _from_config(config: AgentConfig, name: str, folder: Path, project: Project) -> Agent:
    if config.python:
        return _python_named(config, name, folder)
    if not config.model:
        raise InvalidRequest(
            "E-AGENT-FILE", f"Agent {name} has no model.", 'model = "provider:model"'
        )
    tools = [_tool(each, folder) for each in config.tools]
    return Agent(
        name=config.name or name,
        model=config.model,
        instructions=config.instructions,
        tools=[*tools, *_servers(config.mcp, project)],
        workspace=config.workspace,
        permissions=config.permissions,
        limits=config.limits or Limits(),
        retry=config.retry or RetryPolicy(),
        environment=_environment(config),
        max_output_tokens=config.max_output_tokens,
        approval_expires_s=config.approval_expires_s,
        compaction=config.compaction or Compaction(),
        tool_retry=config.tool_retry,
        fallbacks=config.fallbacks,
    )


def _python_named(config: AgentConfig, name: str, folder: Path) -> Agent:
    """Load the object that `python = "file.py:name"` names; `model` may be set beside it."""
    plain = AgentConfig()
    others = [f for f in AgentConfig.__struct_fields__ if f not in ("python", "model")]
    more = [f for f in others if getattr(config, f) != getattr(plain, f)]
    if more:
        raise InvalidRequest(
            "E-AGENT-FILE",
            f"Agent {name} is defined in {config.python}, so {more[0]!r} cannot be set beside it.",
            f"Set it in {config.python.partition(':')[0]}, or define the whole agent here.",
        )
    path, _, attribute = config.python.partition(":")
    agent = _from_python(folder / path, attribute)
    return replace(agent, model=config.model) if config.model else agent


def _tool(ref: str, folder: Path) -> Any:
    """Return the tool that `file.py:name` names."""
    path, colon, name = ref.partition(":")
    if not colon or not path.endswith(".py"):
        raise InvalidRequest("E-AGENT-FILE", f"{ref!r} names no tool.", 'tools = ["tools.py:name"]')
    file = folder / path
    if not file.is_file():
        raise NotFound("E-AGENT-FILE", f"There is no file {file} for the tool {ref!r}.")
    found = getattr(load_module(file), name, None)
    if found is None:
        raise InvalidRequest("E-AGENT-FILE", f"{file} has no {name!r}.")
    return found


def _servers(servers: Mapping[str, McpConfig], project: Project) -> Sequence[Any]:
    if not servers:
        return ()
    from perdure.cli.places import Places
    from perdure.tools.mcp import McpToolset
    from perdure.tools.mcp_pins import FilePins

    pins = FilePins(Places(project).home / "mcp-pins.json")
    return [
        McpToolset(
            name,
            command=each.command,
            args=each.args,
            env=_secrets(each.env, name, project),
            url=each.url,
            headers=_secrets(each.headers, name, project),
            effects=each.effects,
            allow=each.allow,
            pins=pins,
            timeout_s=each.timeout_s,
            retry=each.retry,
            on_error=each.on_error,
        )
        for name, each in servers.items()
    ]


def _secrets(values: Mapping[str, str], server: str, project: Project) -> dict[str, str | Secret]:
    """Take values `$NAME` from the environment, so that no file has to hold a credential."""
    found: dict[str, str | Secret] = {}
    for key, value in values.items():
        if not value.startswith("$"):
            found[key] = value
        elif value[1:] in project.environ:
            found[key] = Secret(project.environ[value[1:]])
        else:
            raise InvalidRequest(
                "E-CONFIG", f"MCP server {server}: {key} wants {value}, which is not set.",
                f"export {value[1:]}=…",
            )  # fmt: skip
    return found


def _environment(config: AgentConfig) -> EnvironmentSpec | None:
    if not config.workspace:
        return None
    given = config.environment or EnvironmentConfig()
    return EnvironmentSpec(kind="bubblewrap", **msgspec.structs.asdict(given))


def _overridden(agent: Agent, overrides: Overrides) -> Agent:
    if overrides.model:
        agent = replace(agent, model=overrides.model)
    if overrides.limits:
        budget = None if any(t.startswith("usd=") for t in overrides.limits) else agent.budget_usd
        limits = limited(agent.limits, overrides.limits)
        agent = replace(agent, limits=limits, budget_usd=budget)
    place = agent.environment or EnvironmentSpec("bubblewrap" if agent.workspace else "none")
    if (overrides.in_place or overrides.unsandboxed) and place.kind == "none":
        raise InvalidRequest(
            "E-AGENT-WORKSPACE",
            f"Agent {agent.name} has no workspace tools, so no directory to work in.",
            "Give it workspace=True (in TOML: workspace = true).",
        )
    if overrides.in_place:
        place = msgspec.structs.replace(place, in_place=True)
    if overrides.unsandboxed:
        place = msgspec.structs.replace(place, kind="process")
    return replace(agent, environment=place) if place.kind != "none" else agent


def limited(limits: Limits, wishes: Sequence[str]) -> Limits:
    """Return `limits` with `name=number` put in force; `none` takes a limit away."""
    changes: dict[str, Any] = {}
    for wish in wishes:
        name, _, value = wish.partition("=")
        if name not in Limits.__struct_fields__:
            known = ", ".join(Limits.__struct_fields__)
            raise InvalidRequest("E-USAGE", f"There is no limit {name!r}.", f"One of: {known}.")
        try:
            number = None if value == "none" else float(value)
        except ValueError as error:
            raise InvalidRequest("E-USAGE", f"--limit {wish}: not a number.") from error
        whole = name in ("steps", "tool_calls", "tokens") and number is not None
        changes[name] = int(number) if whole and number is not None else number
    return msgspec.structs.replace(limits, **changes)


def _findable(model: str, folder: Path) -> str:
    """Name a script by a path that leads to it from here, when it lies beside its agent."""
    script = model.removeprefix(_SCRIPTED)
    if script == model or Path(script).exists() or not (folder / script).exists():
        return model
    return _SCRIPTED + os.path.relpath(folder / script)
