"""The papers' tables, printed beside ours: one module a table, each with ``reproduce``."""
