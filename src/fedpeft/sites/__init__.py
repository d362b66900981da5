"""Where clients run that another process asks: a site's worker, and the clients of a simulation over Flower."""
