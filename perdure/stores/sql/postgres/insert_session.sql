INSERT INTO sessions (session, born, epoch, hash) VALUES (%(session)s, -1, -1, %(genesis)s)
ON CONFLICT (session) DO NOTHING
