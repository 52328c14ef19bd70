-- A name that is new begins with the epochs that the deleted have left.
UPDATE sessions
SET owner = %(node)s,
    epoch = 1 + CASE WHEN epoch < 0 THEN c.value ELSE epoch END,
    born = CASE WHEN born < 0 THEN 1 + c.value ELSE born END
FROM counters AS c
WHERE session = %(session)s AND c.name = 'epochs'
RETURNING epoch
