-- Whoever deletes the session waits for who posts to it, and the other way round; its owner does not.
SELECT seq > base FROM sessions WHERE session = %(session)s FOR KEY SHARE
