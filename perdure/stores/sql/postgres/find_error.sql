SELECT row_data FROM errors WHERE session = %(session)s AND fingerprint = %(fingerprint)b
