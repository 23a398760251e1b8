"""Completions over HTTP from an OpenAI-compatible server, and the cascade as such a server.

Used by the command line and by notebooks; knows nothing of runs or tables."""
