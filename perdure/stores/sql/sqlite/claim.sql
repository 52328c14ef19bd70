UPDATE sessions SET owner = ?2, epoch = epoch + 1 WHERE id = ?1
