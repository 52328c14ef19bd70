"""What nodes on one PostgreSQL do, what a step costs the database, and what idle sessions cost."""
