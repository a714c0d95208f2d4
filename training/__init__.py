"""The offline half: labelled photos in, a served model out (PyTorch; the service never imports it)."""
