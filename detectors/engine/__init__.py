"""Training: one function, handed the objects it works on."""
