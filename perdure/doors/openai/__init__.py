"""OpenAI's protocols: Agents, Responses, Conversations, Chat Completions."""
