"""A campaign of small scans while processes are killed at random; `python tests/chaos`."""
