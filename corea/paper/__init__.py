"""The reproduction: profiles, runs, variants, claims and the plan.

Used by notebooks and the Makefile only; nothing in the library imports it.
"""
