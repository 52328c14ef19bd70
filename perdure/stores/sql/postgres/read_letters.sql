SELECT key, digest, body FROM letters WHERE session = %(session)s ORDER BY posted
