"""The product in sentences: enrol, identify, verify, forget.

Each module is one sentence; all of them speak over a `Product`, which holds the parts. Nothing here knows HTTP.
"""
