"""What an operator does to the data by hand: `backup` it, restore it, `prune` it."""
