"""`python -m vmoe_export` is `vmoe-export`."""

from vmoe_export.cli import main

if __name__ == "__main__":
    main()
