"""One turn of a session as the Responses API tells it: what is kept, its items, its stream."""
