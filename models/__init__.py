"""AI models: never database rows."""
