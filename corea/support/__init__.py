"""What every other folder may use: files, processes, hardware, sizes of models.

Knows no other folder."""
