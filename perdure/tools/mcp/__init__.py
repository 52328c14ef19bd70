"""MCP servers as toolsets, with the official client (imported when a server is opened)."""

from perdure.tools.mcp.toolset import McpTool, McpToolset

__all__ = ["McpTool", "McpToolset"]
