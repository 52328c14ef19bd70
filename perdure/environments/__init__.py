"""Where an agent's tools touch files and processes: sandboxes, workspaces, their snapshots."""
