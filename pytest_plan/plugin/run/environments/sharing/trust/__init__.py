"""What a run can believe of a shared environment, and what it keeps from others with the URL."""
