"""What commands read in the journals of environments, and how they show it."""
