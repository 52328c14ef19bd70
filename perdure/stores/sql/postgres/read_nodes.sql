SELECT
    n.node, n.address, n.version, n.host,
    (extract(EPOCH FROM n.started) * 1000000)::bigint,
    (extract(EPOCH FROM n.seen) * 1000000)::bigint,
    extract(EPOCH FROM n.until - clock_timestamp())::double precision,
    n.until > clock_timestamp(), n.draining,
    CASE
        WHEN %(counted)s THEN (SELECT count(*) FROM sessions AS s WHERE s.owner = n.node) ELSE 0
    END,
    n.schema_version,
    CASE
        WHEN %(counted)s THEN (
            SELECT count(*) FROM letters AS l
            INNER JOIN sessions AS s ON s.session = l.session
            WHERE l.body IS NOT NULL AND s.owner = n.node
        ) ELSE 0
    END
FROM nodes AS n
WHERE %(node)s::text IS NULL OR n.node = %(node)s::text
ORDER BY n.node
