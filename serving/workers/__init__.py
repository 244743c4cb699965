"""Processes that do the jobs' work, here or on further hosts, and what that work is."""
