"""The mathematics of identify: pure functions over numpy arrays, without HTTP, SQL or models."""
