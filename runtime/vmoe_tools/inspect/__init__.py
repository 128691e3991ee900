"""`vmoe inspect`: the description of a bundle, the routing of images, and one picture at several settings."""
