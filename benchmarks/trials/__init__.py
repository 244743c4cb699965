"""Trials: faults, floods and forged files, each a module with ``trial``, which gives table rows."""
