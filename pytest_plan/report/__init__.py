"""What people see of a plan. Listens to the engine; the engine does not know who listens."""
