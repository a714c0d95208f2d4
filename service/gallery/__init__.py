"""The gallery: people and their templates, kept for good and searched fast.

The catalog (SQL) is the truth and everything else here is made from it. From the ground up:

    folder         the data folder: one process at a time, the secret, where files lie
    schema         the tables and their version
    sqlite, postgresql
                   how each is opened, and what its errors mean
    catalog        open, read, write: transactions and the gallery's revision
    records        what the catalog answers with
    galleries, people, faces, forgetting, keys, idempotency
                   one story each, as functions over a transaction
    visits, redis_visits
                   who came where: beside the people, or in Redis
    backup, restoring, counters
                   all of it in one file, and back
    bulk           many faces of many people in one transaction
    imports        bulk jobs: shards, leases, outcomes
    changes        what a replica or an index needs to follow the catalog
    embeddings     the one check of an embedding, and its form as bytes
    index          the protocol of a vector index, and those that there are
    view, views    one gallery's index kept in step with the catalog; all of them
"""
