-- ?3 begins with NUL, which no name of a session may hold: from now on only its forks can find it.
UPDATE sessions
SET name = ?3, owner = NULL, row = NULL, updated_us = 0, wake_us = 0, running = 0, seq = ?2,
    hash = (SELECT hash FROM events WHERE session = ?1 AND seq = ?2)
WHERE id = ?1
