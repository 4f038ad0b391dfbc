"""The picture of a mesh's surface: every triangle has its place in it, and texels know what they show."""

from __future__ import annotations

import numpy as np
import pytest

from fourdgen.report import FourdgenError
from fourdgen.scene.atlas import grid_atlas


@pytest.mark.parametrize(("faces", "size"), [(1, 64), (7, 64), (500, 256), (1000, 256)])
def test_a_texel_shows_the_point_whose_place_it_is(faces: int, size: int) -> None:
    atlas = grid_atlas(faces, size)
    used = atlas.face >= 0
    places = (atlas.uv[atlas.face[used]] * atlas.weights[used][..., None]).sum(1) * size
    y, x = np.divmod(np.nonzero(used)[0], size)
    assert np.allclose(places, np.stack([x, y], 1) + 0.5)
    assert np.allclose(atlas.weights[used].sum(1), 1)


def test_triangles_have_texels_of_their_own_all_around() -> None:
    """Bilinear filtering anywhere in a triangle reads no texel of another."""
    atlas = grid_atlas(500, 256)
    random = np.random.default_rng(0)
    weights = random.dirichlet([0.3, 0.3, 0.3], (500, 40))
    places = np.einsum("fsk,fkc->fsc", weights, atlas.uv) * 256
    face = atlas.face.reshape(256, 256)
    for dx in (-0.5, 0.5):
        for dy in (-0.5, 0.5):
            column, row = (np.floor(places + [dx, dy]).astype(int)).transpose(2, 0, 1)
            assert (face[row, column] == np.arange(500)[:, None]).all()


def test_too_many_triangles_are_refused_with_what_helps() -> None:
    with pytest.raises(FourdgenError, match="too small for 5000 triangles") as refusal:
        grid_atlas(5000, 128)
    assert "--texture 512 or more" in refusal.value.hint
    grid_atlas(5000, 512)
