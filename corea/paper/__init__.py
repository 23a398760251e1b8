"""The reproduction: profiles, the registry of runs, claims, the plan, the runner of notebooks.

Used by notebooks and the Makefile only; nothing in the library imports it."""
