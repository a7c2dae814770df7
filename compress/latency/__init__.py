"""How long networks take: passes timed in turn, a table of layers, plans within a budget in milliseconds."""
