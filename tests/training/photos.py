"""Small photos for tests: flat colours and soft noise, so that people can be told apart and files stay small."""

import io

import numpy as np
from PIL import Image


def jpeg(seed, side=112):
    """The bytes of a JPEG whose look depends on the seed alone."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def people_folder(root, people=4, each=3):
    """PEOPLE/PERSON/PHOTO: a person's photos resemble one another."""
    for person in range(people):
        folder = root / f"person-{person:03d}"
        folder.mkdir(parents=True)
        for photo in range(each):
            pixels = np.array(Image.open(io.BytesIO(jpeg(person))))
            noise = np.random.default_rng([person, photo]).normal(0, 12, pixels.shape)
            noisy = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
            noisy.save(folder / f"{photo}.jpg", quality=90)
    return root
