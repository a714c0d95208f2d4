"""The indexes of galleries: who is nearest to a probe. Each can be made again from the catalog.

From the ground up:

    protocol    what the rest of the product knows of an index, and of where indexes are kept
    flat        exact search in memory
    snapshot    an index on disk
    local       the indexes of this process, kept in a folder
"""
