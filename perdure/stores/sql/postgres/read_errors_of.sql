SELECT row_data FROM errors WHERE session = %(session)s ORDER BY fingerprint
