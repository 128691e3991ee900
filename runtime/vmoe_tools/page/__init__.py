"""`vmoe page`: a static folder that runs a bundle in a browser and shows the effect of its settings."""
