"""The options of an export: their types and defaults, and the command-line options made from them."""
