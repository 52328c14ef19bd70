-- Whether the lease ran out before this word. Waits for who is taking a session of ours just now.
SELECT until < clock_timestamp() FROM nodes WHERE node = %(node)s FOR UPDATE
