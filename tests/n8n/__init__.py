"""A real n8n for tests: installed once per machine, started once per run."""
