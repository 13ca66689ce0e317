"""The pages of the control service: by themselves, and in a real browser."""
