-- Waits for a commit of ours that the server is still at work on: it holds this line.
SELECT version FROM changes WHERE node = %(node)s FOR UPDATE
