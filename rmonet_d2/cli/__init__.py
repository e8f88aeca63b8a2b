"""The programs: one module per command, whose arguments are parsed before torch is imported."""
