SELECT digest, (extract(epoch FROM put) * 1000000)::bigint, octet_length(data)
FROM blobs
WHERE digest > %(after)s
ORDER BY digest
LIMIT %(limit)s
