DELETE FROM blobs
WHERE digest = %(digest)s AND (extract(epoch FROM put) * 1000000)::bigint < %(before_us)s
RETURNING digest
