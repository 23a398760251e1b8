"""corea: a small model that knows when it is right, and a cascade that trusts it only then."""

__version__ = "0.1.0"
