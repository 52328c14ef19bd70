INSERT INTO blobs (digest, data) VALUES (%(digest)s, %(data)b) ON CONFLICT (digest) DO NOTHING
