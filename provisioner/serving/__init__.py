"""One process of it all: API, gateway and control loop, wired and run."""
