"""Globus: files by Transfer, jobs by Compute, whole flows by Flows."""
