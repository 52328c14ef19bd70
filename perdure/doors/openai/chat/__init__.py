"""OpenAI's Chat Completions: one reply to a conversation that the client keeps."""
