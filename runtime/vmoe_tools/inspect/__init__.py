"""Shows what a vmoe bundle is, where it comes from, what was checked of it, and which backends run it here."""
