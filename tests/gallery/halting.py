"""Restores a backup and halts half way, to be killed. Arguments: the catalog, the backup."""

import io
import sys
import time
from pathlib import Path

from service.gallery import restoring
from service.gallery.catalog import Catalog
from service.identify.fusion import fuse


class Halting(io.BytesIO):
    """A file that is read once in full and then, from its beginning again, by half."""

    rounds = 0

    def seek(self, *where):
        self.rounds += 1
        return super().seek(*where)

    def read(self, size=-1):
        if self.rounds == 2 and self.tell() > len(self.getvalue()) // 2:
            print("half", flush=True)
            time.sleep(60)
        return super().read(min(size, 1000) if size > 0 else size)


if __name__ == "__main__":
    catalog = Catalog.open(sys.argv[1], secret=b"s" * 32, fuse=fuse)
    restoring.restore(catalog, Halting(Path(sys.argv[2]).read_bytes()))
