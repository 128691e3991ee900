"""`vmoe run`: classifies image files with a bundle."""
