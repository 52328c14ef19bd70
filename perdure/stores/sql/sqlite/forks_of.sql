-- The last event of this session that forks of it read; NULL when there is no fork.
SELECT max(base) FROM sessions WHERE origin = ?1
