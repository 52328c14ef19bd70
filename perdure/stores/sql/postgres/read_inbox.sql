SELECT key, body FROM letters WHERE session = %(session)s AND body IS NOT NULL ORDER BY posted
