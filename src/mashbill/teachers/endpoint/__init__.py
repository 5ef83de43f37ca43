"""Teachers behind an HTTP interface like OpenAI's: what is asked, what comes back, and what is believed of it."""
