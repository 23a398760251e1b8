"""Completions over HTTP, and the cascade as a service.

Used by the command line and by notebooks; knows nothing of runs or tables.
"""
