"""The command line `bn-keras`: one module a command."""
