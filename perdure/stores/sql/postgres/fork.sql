-- Whoever claimed it before, when it was empty, has lost it.
UPDATE sessions
SET origin = %(origin)s, origin_born = %(origin_born)s, base = %(at)s, seq = %(at)s,
    hash = %(hash)s, row_data = NULL, busy = false, child = false, updated_us = 0, wake_us = 0, owner = NULL,
    epoch = 1 + CASE WHEN epoch < 0 THEN c.value ELSE epoch END,
    born = CASE WHEN born < 0 THEN 1 + c.value ELSE born END
FROM counters AS c
WHERE session = %(session)s AND c.name = 'epochs'
