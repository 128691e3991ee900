"""`vmoe inspect`: describes a bundle, shows how it routes images, and compares settings on one picture."""
