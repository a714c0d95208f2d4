"""Vultus: the service half. Finds whose face a photo shows, and says how sure it is.

The parts, from the edge inwards: `cli`, `app` and `api` speak to people; `recognition` is the product in
sentences; `vision` turns a photo into embeddings; `gallery` keeps templates and searches them; `identify` is the
pure mathematics of a decision; `artifact` reads the models; `errors` and `settings` are known to all.
"""

__version__ = "0.1.0"
