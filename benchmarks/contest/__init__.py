"""What ``peers.py`` is made of: the workloads in each library, worker processes, measurements, the report."""
