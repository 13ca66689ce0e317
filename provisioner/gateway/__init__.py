"""The gateway: OpenAI's and Ollama's dialects in, the node that serves the model out. The one async room."""
