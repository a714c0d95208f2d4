"""The command line, `vultus`."""
