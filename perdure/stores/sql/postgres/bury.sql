INSERT INTO graves (session, born, kept, origin, origin_born, base)
VALUES (%(session)s, %(born)s, %(kept)s, %(origin)s, %(origin_born)s, %(base)s)
ON CONFLICT (session, born) DO UPDATE SET kept = excluded.kept
