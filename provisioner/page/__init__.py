"""The fleet in a browser: pages made here, whole without a script; one script keeps them fresh. Nothing is fetched."""
