"""The program `vmoe`: what a person does with a bundle on a command line."""
