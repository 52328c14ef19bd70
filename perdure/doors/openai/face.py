"""All of OpenAI's protocols below one prefix."""

from perdure.doors.http import Face
from perdure.doors.openai.problems import problem
from perdure.doors.openai.responses.face import ENDPOINTS as RESPONSES

PREFIX = "/openai/v1"


def openai_face() -> Face:
    """Return the face. More exact paths come before those with a name in their place."""
    return Face("openai", PREFIX, [*RESPONSES], problem)
