"""Jobs that are never lost: records on disk, a queue of ids, worker processes.

``jobs.Jobs`` is the only door for others; ``crew.Crew`` runs the workers.
"""
