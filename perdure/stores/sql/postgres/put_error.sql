INSERT INTO errors (session, fingerprint, row_data)
VALUES (%(session)s, %(fingerprint)b, %(row)b)
ON CONFLICT (session, fingerprint) DO UPDATE SET row_data = excluded.row_data
