"""All of OpenAI's protocols below one prefix."""

from perdure.doors.http import Face
from perdure.doors.openai.agents.artifacts import ENDPOINTS as ARTIFACTS
from perdure.doors.openai.agents.face import AGENTS, SESSIONS
from perdure.doors.openai.agents.provisioned import ENDPOINTS as ENVIRONMENTS
from perdure.doors.openai.agents.traces import ENDPOINTS as TRACES
from perdure.doors.openai.automations.face import ENDPOINTS as AUTOMATIONS
from perdure.doors.openai.chat.face import ENDPOINTS as CHAT
from perdure.doors.openai.conversations.face import ENDPOINTS as CONVERSATIONS
from perdure.doors.openai.files import ENDPOINTS as FILES
from perdure.doors.openai.models import ENDPOINTS as MODELS
from perdure.doors.openai.problems import problem
from perdure.doors.openai.responses.face import ENDPOINTS as RESPONSES
from perdure.doors.openai.unknown import ENDPOINTS as UNKNOWN
from perdure.doors.openai.vaults import ENDPOINTS as VAULTS

PREFIX = "/openai/v1"


def openai_face() -> Face:
    """Return the face. More exact paths come before those with a name in their place."""
    return Face(
        "openai",
        PREFIX,
        [
            *RESPONSES,
            *CONVERSATIONS,
            *CHAT,
            *MODELS,
            *FILES,
            *VAULTS,
            *ENVIRONMENTS,
            *ARTIFACTS,
            *TRACES,
            *AUTOMATIONS,
            *SESSIONS,
            *AGENTS,
            *UNKNOWN,
        ],
        problem,
    )
