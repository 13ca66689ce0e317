"""Figures for Prometheus: what is counted, under which names, and the page that shows it."""
