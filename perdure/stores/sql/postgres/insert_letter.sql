INSERT INTO letters (session, key, digest, body)
VALUES (%(session)s, %(key)b, %(digest)b, %(body)b)
ON CONFLICT (session, key) DO NOTHING
