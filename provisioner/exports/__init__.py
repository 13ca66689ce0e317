"""The fleet in the words of programs that run beside the service. Pure: text from what the fleet file says."""
