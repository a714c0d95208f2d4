"""The REST interface: requests in, answers out, no decisions of its own."""
