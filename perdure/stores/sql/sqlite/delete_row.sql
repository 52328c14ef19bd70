-- Answers which session it was a fork of.
DELETE FROM sessions WHERE id = ?1 RETURNING origin
