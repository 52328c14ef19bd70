SELECT session, seq FROM sessions
WHERE session = any(%(names)s::text []) AND seq > base
