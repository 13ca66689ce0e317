"""The JSON API of the control service: faces over the same calls that the commands make."""
