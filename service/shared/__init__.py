"""What the replicas of a service tell one another beside the catalog, and may lose: claims, limits, notes, notices.

store        the protocol, and the form of it for one process, in memory
redis_store  the same in Redis, for several

Nothing here is the truth. Where Redis is away, each replica goes on with its own memory: an Idempotency-Key is still
done once, because the catalog takes each key once, and limits hold for each replica by itself until Redis is back.
"""
