-- The dead are forgotten after a day; what they owned counts as nobody's either way.
WITH gone AS (
    DELETE FROM nodes WHERE until < clock_timestamp() - interval '1 day' RETURNING node
)
DELETE FROM changes WHERE node IN (SELECT node FROM gone)
