"""Completions over HTTP from an OpenAI-compatible server, and the cascade as such a server."""
