"""From records to sources of confidence, cascades by name, tables and figures; runs no model.

Used by `paper` and notebooks only."""
