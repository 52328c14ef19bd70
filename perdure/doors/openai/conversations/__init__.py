"""OpenAI's Conversations API: a conversation is a session, its items are read off the journal."""
