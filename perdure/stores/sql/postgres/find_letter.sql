SELECT digest FROM letters WHERE session = %(session)s AND key = %(key)b
