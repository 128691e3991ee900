"""Write a bundle's folder (completely or not at all), its manifest, its weights file and its model card."""
