"""`vmoe page`: writes a static web page that runs a bundle in a browser and shows the effect of its settings."""
