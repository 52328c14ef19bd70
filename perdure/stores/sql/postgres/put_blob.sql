INSERT INTO blobs (digest, data) VALUES (%(digest)s, %(data)b)
ON CONFLICT (digest) DO UPDATE SET put = clock_timestamp()
WHERE blobs.put < clock_timestamp() - make_interval(secs => %(refresh_s)s)
