"""The CPU benchmark's parts: models, runs, peers, floors, layers and reports, one subject a file."""
