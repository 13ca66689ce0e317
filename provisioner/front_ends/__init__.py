"""What people use in front of engines: it serves no model itself, and runs beside whichever engine does."""
