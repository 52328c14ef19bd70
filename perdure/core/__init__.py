"""The pure core: what a session is, what it folds to, what is due next. No clock, no I/O."""
