-- A wave of runs: at most one per session. What is not answered was refused, and is not written.
WITH moved AS (
    UPDATE sessions AS s
    SET seq = u.seq,
        hash = CASE WHEN u.seq > u.expected THEN u.hash ELSE s.hash END,
        row_data = CASE WHEN u.rowed THEN u.row_data ELSE s.row_data END,
        busy = CASE WHEN u.rowed THEN u.busy ELSE s.busy END,
        child = CASE WHEN u.rowed THEN u.child ELSE s.child END,
        wake_us = CASE WHEN u.rowed THEN u.wake_us ELSE s.wake_us END,
        updated_us = CASE WHEN u.rowed THEN u.updated_us ELSE s.updated_us END
    FROM unnest(
        %(sessions)b::text [], %(epochs)b::bigint [], %(expected)b::bigint [], %(seqs)b::bigint [],
        %(hashes)b::bytea [], %(rowed)b::boolean [], %(rows)b::bytea [], %(busy)b::boolean [],
        %(children)b::boolean [], %(wakes)b::bigint [], %(updated)b::bigint []
    ) AS u (
        session, epoch, expected, seq, hash, rowed, row_data, busy, child, wake_us, updated_us
    )
    WHERE
        s.session = u.session COLLATE "C" AND s.owner = %(node)b::text COLLATE "C"
        AND s.epoch = u.epoch AND s.seq = u.expected
    RETURNING s.session, s.born, u.expected, u.seq AS last
),
written AS (
    INSERT INTO events (session, born, seq, type, data, hash)
    SELECT m.session, m.born, e.seq, e.type, e.data, e.hash
    FROM unnest(
        %(in_session)b::text [], %(in_seq)b::bigint [], %(in_type)b::text [],
        %(in_data)b::bytea [], %(in_hash)b::bytea []
    ) AS e (session, seq, type, data, hash)
    INNER JOIN moved AS m
        ON m.session = e.session COLLATE "C" AND e.seq > m.expected AND e.seq <= m.last
),
taken AS (
    UPDATE letters AS l SET body = NULL
    FROM unnest(%(of_session)b::text [], %(of_key)b::bytea []) AS t (session, key)
    INNER JOIN moved AS m ON m.session = t.session COLLATE "C"
    WHERE l.session = t.session COLLATE "C" AND l.key = t.key AND l.body IS NOT NULL
),
told AS (
    INSERT INTO changes (node, version) VALUES (%(node)b, %(version)b)
    ON CONFLICT (node) DO UPDATE SET version = greatest(changes.version, excluded.version)
)
SELECT session FROM moved
