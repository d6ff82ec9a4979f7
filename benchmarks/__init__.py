"""Measurements of the edge, all in one run; not installed: `.venv/bin/python -m benchmarks.edge`."""
