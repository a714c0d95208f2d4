"""The indexes of galleries: who is nearest to a probe. Each can be made again from the catalog.

From the ground up:

    protocol    what the rest of the product knows of an index, and of where indexes are kept
    products    inner products on one thread; `threads` share one search
    flat        exact search in memory: all of a small gallery, and what came last in a large one
    codes       coarse codes and what their scores are worth
    rows        whole numbers for exact scores
    segment     sealed vectors in a file: codes and rows; `building` makes one, `files` writes it
    devices     where codes are looked through: main memory, GPUs
    sealed      search through segments: coarse scores for all, exact ones for the best
    directory   where the rows of all segments lie
    state       what an index shows at one moment
    snapshot    an index on disk: what is growing, and which segments there are
    planner     what searches and scores were measured to cost; `memory` what an index needs
    local       an index of this process; `builder` the thread that seals and merges, `indexes` all of them
    milvus, milvus_server, marks
                an index kept by a Milvus server
"""
