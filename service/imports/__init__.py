"""Bulk imports: a folder, a manifest, a tar or ready embeddings into a gallery, with every core, once each.

paths          the import root: what may be read, and how
entries        a row of a manifest, and what became of it
manifests      CSV, JSONL and Parquet to entries
sources        folders, tars and ready embeddings; which of all these a path is
sight          the process that looks at photos: a helper, at the lowest priority
helpers        as many of them as there are cores, and what happens when one dies
looking        rows of a shard to what there is to decide about
verdicts       decide about rows in their order, as if they had come one by one
worker         leases shards, keeps the helpers busy, commits; one thread a process
jobs           the product's sentences: begin, look up, cancel, report
"""
