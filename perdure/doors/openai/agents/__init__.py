"""OpenAI's Agents API: a session of theirs is a session of ours, and its stream is our journal."""
