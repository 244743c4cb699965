"""The federation on NVIDIA FLARE 2.9: kits, processes, and one job between real machines.

Only this package imports ``nvflare``. The engine finds our components by their class paths; those
strings are in :mod:`federation.flare.kits` and :mod:`federation.flare.package`.
"""
