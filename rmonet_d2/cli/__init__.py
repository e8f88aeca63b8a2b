"""The programs, one module per command. Each parses its arguments before torch is imported."""
