"""What other frameworks keep, in an `AgentkitStore`. Each module needs its framework."""
