"""OpenAI's Responses API: a response is one turn of a session."""
