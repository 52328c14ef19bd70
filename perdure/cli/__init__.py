"""The command line. `app.py` declares the verbs; a verb's module is imported when it is called."""
