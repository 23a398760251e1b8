"""The reproduction: profiles, runs, claims, the plan; only notebooks and the Makefile use it."""
