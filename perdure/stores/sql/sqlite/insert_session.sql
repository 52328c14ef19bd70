-- Epochs go on where those of deleted sessions ended: that highest one is a version of no document.
INSERT INTO sessions (name, hash, epoch)
VALUES (?1, ?2, coalesce((SELECT version FROM docs WHERE kind = x'00' AND name = x''), 0))
ON CONFLICT (name) DO NOTHING
