import numpy as np

from service.gallery import calibrations, faces, galleries, people


def keep(catalog, gallery, tiers):
    with catalog.write() as tx:
        return calibrations.keep(tx, gallery.pk, revision=3, people=9, tiers=tiers)


def test_a_gallery_begins_without_one(catalog, gallery):
    with catalog.read() as reading:
        assert calibrations.newest(reading, gallery.pk) is None
        assert calibrations.newest_version(reading, gallery.pk) == 0


def test_versions_rise_and_the_last_few_are_kept(catalog, gallery):
    made = [keep(catalog, gallery, {"all": {"pairs": number}}) for number in range(calibrations.KEPT + 2)]
    assert [each.version for each in made] == list(range(1, calibrations.KEPT + 3))
    with catalog.read() as reading:
        assert calibrations.newest(reading, gallery.pk) == made[-1]
        held = reading.connection.exec_driver_sql("SELECT count(*) FROM calibrations").scalar_one()
    assert held == calibrations.KEPT


def test_keeping_one_is_no_change_of_the_gallery(catalog, gallery, revision):
    before = revision()
    keep(catalog, gallery, {})
    assert revision() == before


def test_deleting_a_gallery_deletes_its_calibrations(catalog, gallery):
    keep(catalog, gallery, {})
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
        assert tx.connection.exec_driver_sql("SELECT count(*) FROM calibrations").scalar_one() == 0


def test_a_probe_is_the_first_template_of_a_person(catalog, gallery, template):
    with catalog.write() as tx:
        for person, seeds in (("a", (1, 2)), ("b", (3,))):
            faces.add(tx, gallery.pk, person, [template(seed) for seed in seeds], limit=5)
        keys = [people.get(tx, gallery.pk, person).pk for person in ("a", "b")]
        rows, vectors = calibrations.one_template_each(tx, gallery.pk, np.array([*keys, 999]), gallery.dim)
    found = dict(zip(rows.tolist(), vectors, strict=True))
    assert found.keys() == set(keys)
    np.testing.assert_allclose(found[keys[0]], template(1).embedding)
    np.testing.assert_allclose(found[keys[1]], template(3).embedding)


def test_vectors_are_read_in_steps_that_miss_nobody(catalog, gallery, template):
    with catalog.write() as tx:
        for seed in range(5):
            faces.add(tx, gallery.pk, f"p{seed}", [template(seed)], limit=5)
        everybody, after = [], -1
        while True:
            rows, vectors = people.vectors_after(tx, gallery.pk, after, dim=gallery.dim, limit=2)
            assert vectors.shape == (len(rows), gallery.dim)
            if not len(rows):
                break
            everybody += rows.tolist()
            after = everybody[-1]
    assert len(set(everybody)) == 5
