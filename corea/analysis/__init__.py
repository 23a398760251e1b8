"""From records to sources of confidence, tables and figures.

Used by paper and notebooks; reads records only and runs no model.
"""
