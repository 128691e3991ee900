"""Writers for a bundle: its folder (written completely or not at all), manifest, weights file and model card."""
