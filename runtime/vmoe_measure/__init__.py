"""What a bundle costs and how right it is: FLOPs, comparison of answers, labelled and synthetic images, timing."""
