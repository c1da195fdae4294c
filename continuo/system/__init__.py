"""The computer: files, cache, worker pools, devices, processes, progress, command line. Imports no other wing."""
