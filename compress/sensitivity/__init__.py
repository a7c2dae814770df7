"""What each layer group bears: a sweep of cuts, its record, and what it suggests, in words and pictures."""
