import asyncio
import hashlib

import numpy as np
import pytest
from PIL import Image

from service.errors import (
    EngineError,
    NotReadyError,
    OverloadedError,
    PhotoEmptyError,
    PhotoTooLargeError,
    TooManyFacesError,
)
from service.settings import CHECKOUT
from service.vision import engines
from service.vision.decode import decode
from service.vision.detect import Detector
from service.vision.encode import Encoder
from service.vision.reader import reader
from service.vision.see import Limits
from service.vision.seeing import Setup
from tests.faces import crowd, orl_photo, orl_pixels, saved, scene

SETUP = Setup(
    ("openvino", CHECKOUT / "models" / "yunet" / "model.onnx"),
    Limits(photo_bytes=1 << 20, photo_pixels=4_000_000, faces=10),
)


@pytest.fixture(scope="module")
def networks(models):
    """Detection and recognition."""
    detector = engines.openvino(models.file(models.manifest("yunet")))
    encoder = Encoder(engines.openvino(models.file(models.manifest("sface")), streams=2))
    return detector, encoder


@pytest.fixture
def read(networks):
    """Runs a scenario, a coroutine function of a reader."""

    def run(scenario, encoder=None, **options):
        settings = {"max_batch": 4, "capacity": 32, "workers": 2} | options

        async def main():
            async with asyncio.timeout(60), reader(SETUP, encoder or networks[1], **settings) as made:
                return await scenario(made)

        return asyncio.run(main())

    return run


def test_a_photo_is_seen_with_its_faces_cut_out_and_judged(read, networks):
    data = crowd(3, columns=3)
    photo = read(lambda made: made.see(data))
    assert (photo.width, photo.height, photo.digest) == (276, 112, hashlib.sha256(data).hexdigest())
    assert len(photo.faces) == 3
    for seen in photo.faces:
        assert (seen.crop.shape, seen.crop.dtype) == ((112, 112, 3), np.uint8)
        assert 0 < seen.quality.score <= 1


def test_many_photos_at_once_are_seen_as_each_alone(read, networks):
    photos = [orl_photo(person, 1) for person in range(1, 9)] + [crowd(4), saved(scene(), "PNG"), crowd(9)]

    async def at_once(made):
        return await asyncio.gather(*(made.see(photo) for photo in photos))

    alone = Detector(networks[0], max_faces=20)
    for data, seen in zip(photos, read(at_once), strict=True):
        pixels = decode(data, max_bytes=1 << 20, max_pixels=4_000_000).pixels
        expected = alone.detect(pixels)
        assert len(seen.faces) == len(expected)
        for face, other in zip(seen.faces, expected, strict=True):
            np.testing.assert_allclose(face.face.landmarks, other.landmarks, atol=0.05)
            assert face.face.score == pytest.approx(other.score, abs=1e-3)


def test_crops_are_encoded_as_each_alone_and_in_their_order(read, networks):
    async def all_of(made):
        photos = await asyncio.gather(*(made.see(orl_photo(person, 1)) for person in range(1, 11)))
        crops = [photo.faces[0].crop for photo in photos]
        return crops, await made.encode(crops)

    crops, embeddings = read(all_of)
    for crop, embedding in zip(crops, embeddings, strict=True):
        np.testing.assert_allclose(embedding, networks[1]([crop])[0], atol=1e-4)


def test_a_small_face_in_a_large_photo_and_one_that_fills_it_are_both_found(read):
    large = Image.new("RGB", (2000, 1500), (120, 120, 120))
    large.paste(Image.fromarray(orl_pixels(1, 1)), (1700, 1200))
    (small,) = read(lambda made: made.see(saved(large, "PNG"))).faces
    assert 1700 < small.face.box.x < 1800
    (filling,) = read(lambda made: made.see(saved(Image.fromarray(orl_pixels(1, 1)), "PNG"))).faces
    assert filling.face.box.width > 50


def test_a_bad_photo_fails_alone(read):
    photos = [orl_photo(1, 1), b"", orl_photo(2, 1), bytes(2 << 20), crowd(20), orl_photo(3, 1)]

    async def at_once(made):
        return await asyncio.gather(*(made.see(photo) for photo in photos), return_exceptions=True)

    outcomes = [type(item).__name__ if isinstance(item, Exception) else len(item.faces) for item in read(at_once)]
    assert outcomes == [1, PhotoEmptyError.__name__, 1, PhotoTooLargeError.__name__, TooManyFacesError.__name__, 1]


def test_as_many_faces_as_allowed_are_seen(read):
    assert len(read(lambda made: made.see(crowd(10))).faces) == 10


def test_more_photos_than_may_wait_are_refused_and_the_others_answered(read):
    async def flood(made):
        return await asyncio.gather(*(made.see(orl_photo(1, 1)) for _ in range(60)), return_exceptions=True)

    outcomes = read(flood, capacity=4, workers=1)
    refused = [item for item in outcomes if isinstance(item, OverloadedError)]
    served = [item for item in outcomes if not isinstance(item, Exception)]
    assert len(refused) + len(served) == 60
    assert refused
    assert served
    assert all(len(photo.faces) == 1 for photo in served)


def test_a_large_photo_passes_where_one_photo_may_wait(read):
    large = saved(Image.fromarray(np.asarray(scene(2400, 1600))), "JPEG")
    assert read(lambda made: made.see(large), capacity=1, workers=1).faces == ()


def test_an_engine_that_fails_is_told_and_forgotten(read, networks):
    calls = []

    class Failing:
        name = "failing"

        def __call__(self, batch):
            calls.append(len(batch))
            if len(calls) == 1:
                raise EngineError("out of order")
            return networks[1].engine(batch)

    async def twice(made):
        photo = await made.see(orl_photo(1, 1))
        with pytest.raises(EngineError):
            await made.encode([photo.faces[0].crop])
        return await made.encode([photo.faces[0].crop])

    assert len(read(twice, encoder=Encoder(Failing()))) == 1


def test_an_engine_that_gives_nonsense_is_told(read):
    class Nonsense:
        name = "nonsense"

        def __call__(self, batch):
            return {"embeddings": np.full((len(batch), 128), np.nan, np.float32)}

    async def encode(made):
        photo = await made.see(orl_photo(1, 1))
        return await made.encode([photo.faces[0].crop])

    with pytest.raises(EngineError, match="nonsense"):
        read(encode, encoder=Encoder(Nonsense()))


def test_a_caller_that_leaves_makes_room(read):
    async def leave(made):
        tasks = [asyncio.create_task(made.see(orl_photo(1, 1))) for _ in range(20)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await made.see(orl_photo(2, 1))

    assert len(read(leave, capacity=20, workers=1).faces) == 1


def test_a_reader_that_is_closed_takes_nothing(networks):
    async def main():
        async with reader(SETUP, networks[1], max_batch=4, capacity=8, workers=1) as made:
            pass
        with pytest.raises(NotReadyError):
            await made.encode([np.zeros((112, 112, 3), np.uint8)])

    asyncio.run(main())
