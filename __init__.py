"""whipray: class-balanced diffusion models on long-tailed images."""
