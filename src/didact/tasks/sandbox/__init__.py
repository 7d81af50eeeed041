"""An OS sandbox for programs written by a model.

It uses bubblewrap if that is installed and passes the probe, else Linux namespaces directly, else it runs
nothing. A program has no network, home directory, environment or other programs, and limits on CPU and wall
time, memory, processes, output and files. At the end every descendant is killed. `probe` verifies this once,
before the first program runs.
"""
