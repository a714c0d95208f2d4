"""Enrols without end until it is killed; says so after each commit.

Arguments: the catalog (a file or a URL), a prefix, a gallery.
"""

import hashlib
import sys

import numpy as np

from service.gallery import faces
from service.gallery.catalog import Catalog
from service.gallery.records import NewTemplate
from service.identify.fusion import fuse


def template(photo, dim):
    digest = hashlib.sha256(photo.encode())
    drawn = np.random.default_rng(int.from_bytes(digest.digest()[:8], "big")).standard_normal(dim)
    embedding = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return NewTemplate(digest.hexdigest(), embedding, digest.digest()[9] / 255, (0.0, 0.0, 1.0, 1.0))


def enrol(path, prefix, gallery_pk):
    catalog = Catalog.open(path, secret=b"s" * 32, fuse=fuse)
    for number in range(1_000_000):
        person = f"{prefix}-{number}"
        with catalog.write() as tx:
            photos = [template(f"{person} {photo}", 16) for photo in range(2)]
            faces.add(tx, gallery_pk, person, photos, limit=50)
            faces.add(tx, gallery_pk, "everybody", photos[:1], limit=1_000_000)
        print(person, flush=True)


if __name__ == "__main__":
    enrol(sys.argv[1], sys.argv[2], int(sys.argv[3]))
