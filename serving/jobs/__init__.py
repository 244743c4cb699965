"""Jobs that are never lost: records on disk, their files, a queue of ids.

``jobs.Jobs`` is the only door for those who ask; ``serving.workers`` does the work.
"""
