"""Tools behind the `Tool` port: Python functions, MCP servers, work in a sandboxed workspace."""
