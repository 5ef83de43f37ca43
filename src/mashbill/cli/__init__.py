"""The command ``mashbill``, one file a command."""
