SELECT session, seq, row_data FROM sessions WHERE session = %(session)s AND seq > base
