"""The command-line program `vmoe`."""
