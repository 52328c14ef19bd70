SELECT owner, count(*) FROM sessions WHERE owner IS NOT NULL GROUP BY owner
