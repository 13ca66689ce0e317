"""The guided demonstration: the whole path on one machine, from a fleet file to an answer, to sleep, to wake."""
