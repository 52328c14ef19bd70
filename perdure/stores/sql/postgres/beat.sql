-- The database's clock, nobody else's.
INSERT INTO nodes (
    node, address, version, host, schema_version, started, seen, until
)
VALUES (
    %(node)s, %(address)s, %(version)s, %(host)s, %(schema)s, clock_timestamp(), clock_timestamp(),
    clock_timestamp() + make_interval(secs => %(lease_s)s)
)
ON CONFLICT (node) DO UPDATE SET
    address = excluded.address, seen = excluded.seen, until = excluded.until
RETURNING draining
