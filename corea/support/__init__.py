"""Files, processes, hardware, sizes of models: used by every folder, and uses no other itself."""
