"""The CPU benchmark's parts: models, runs, peers and reports, one subject a file."""
