"""The residual quantizer against a slow reference, and what a fit promises."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from continuo.audio import codebook
from continuo.audio.codebook import ENCODE_ROWS, ResidualCodebook


def vectors(rows: int = 700, width: int = 12, seed: int = 0) -> np.ndarray:
    """Clusters of very different size along few directions."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((9, width)) * np.geomspace(6, 0.3, width)
    return (centres[rng.integers(9, size=rows)] + 0.2 * rng.standard_normal((rows, width)) + 3).astype(np.float32)


def fitted(x: np.ndarray, said: list[str] | None = None, **changes) -> ResidualCodebook:
    how = {"components": 6, "levels": 3, "centroids": 10, "seed": 1} | changes
    return codebook.fit(x, **how, advance=[].append if said is None else said.append)


def one_by_one(book: ResidualCodebook, x: np.ndarray) -> list[list[int]]:
    """Codes by plain distances, vector by vector, in double precision."""
    made = []
    for vector in x.astype(np.float64):
        residual = book.components.double().numpy() @ (vector - book.mean.double().numpy())
        codes = []
        for centroids in book.centroids.double().numpy():
            codes.append(int(np.linalg.norm(centroids - residual, axis=-1).argmin()))
            residual = residual - centroids[codes[-1]]
        made.append(codes)
    return made


def test_encode_chooses_the_nearest_centroid_level_by_level():
    x = vectors(2 * ENCODE_ROWS + 3)
    book = fitted(x)
    codes = book.encode(torch.from_numpy(x))
    assert codes.dtype == torch.int64
    assert codes.tolist() == one_by_one(book, x)


def test_decode_is_the_sum_of_the_chosen_centroids():
    x = vectors()
    book = fitted(x)
    codes = book.encode(torch.from_numpy(x)).reshape(7, 100, 3)
    looked_up = book.dequantize(codes)
    expected = sum(book.centroids[level][codes[..., level]] for level in range(3))
    torch.testing.assert_close(looked_up, expected)
    decoded = book.reconstruct(book.dequantize(codes))
    assert decoded.shape == (7, 100, 12)
    torch.testing.assert_close(decoded, expected @ book.components + book.mean)
    assert len(book.centroids) == 3
    torch.testing.assert_close(book.powers, (book.centroids**2).sum(-1))


@pytest.mark.parametrize("start", [None, vectors(300, seed=5)])
def test_cross_fit_quantize_overfitted_codebook_has_held_out_error(start):
    """Many centroids for few vectors overfit them; the halves are held out from each other."""
    known, new = torch.from_numpy(vectors(800)).split(400)
    donor = None if start is None else fitted(start, centroids=60)
    how = {"components": 6, "levels": 3, "centroids": 60, "seed": 1, "advance": [].append}
    book = codebook.fit(known.numpy(), **how, start=donor)
    error = lambda quantized, x: float((quantized - (x - book.mean) @ book.components.T).square().sum(1).mean())  # noqa: E731
    of_known, of_new = (error(book.dequantize(book.encode(x)), x) for x in (known, new))
    rows = codebook.cross_fit_quantize(book, known, seed=1, advance=[].append, start=donor)
    assert rows.shape == (400, 6)
    assert of_known < 0.6 * of_new
    assert 0.8 * of_new < error(rows, known) < 2 * of_new


@pytest.mark.parametrize("rows", [100, 700])
def test_cross_fit_quantize_without_overfitting_or_with_few_vectors_equals_quantize(rows):
    x = torch.from_numpy(vectors(rows))
    book = fitted(x.numpy(), centroids=60 if rows == 100 else 10)
    assert torch.equal(codebook.cross_fit_quantize(book, x, seed=1, advance=[].append), book.dequantize(book.encode(x)))


def test_fit_levels_of_a_larger_sample_quantize_new_vectors_better():
    x = torch.from_numpy(vectors(4000))
    few, many, new = x[:300], x[:3000], x[3000:]
    how = {"components": 6, "levels": 3, "centroids": 60, "seed": 1, "advance": [].append}
    small, large = (
        codebook.fit(few.numpy(), **how),
        codebook.fit(few.numpy(), **how, more_vectors=many.split(32), max_vectors=3000),
    )
    assert torch.equal(small.components, large.components)

    def error(book, of):
        return float((book.dequantize(book.encode(of)) - (of - book.mean) @ book.components.T).square().sum())

    assert error(large, new) < 0.8 * error(small, new)
    assert torch.equal(
        codebook.fit(few.numpy(), **how, more_vectors=few.split(32), max_vectors=400).centroids, small.centroids
    )
    seen = small.dequantize(small.encode(few))
    assert not torch.equal(codebook.cross_fit_quantize(small, few, seed=1, advance=[].append), seen)
    assert torch.equal(
        codebook.cross_fit_quantize(small, few, seed=1, advance=[].append, fitted_to=60 * codebook.PLENTY), seen
    )


def test_concatenate_keeps_parts_in_order():
    parts = [torch.randn(length, 5) for length in (3, 1, 4)]
    assert torch.equal(codebook.concatenate(iter(parts), 8), torch.cat(parts))
    assert torch.equal(codebook.concatenate(iter(parts), 90), torch.cat(parts))
    assert len(codebook.concatenate(iter([]), 90)) == 0


def test_decode_each_level_reduces_the_error():
    x = torch.from_numpy(vectors())
    book = fitted(x.numpy())
    errors = []
    for level in range(4):
        part = ResidualCodebook(book.mean, book.components, book.centroids[:level])
        made = part.reconstruct(part.dequantize(book.encode(x)[:, :level])) if level else book.mean
        errors.append((x - made).square().mean().item())
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] > errors[2] > errors[3]


def test_fit_components_have_the_greatest_variance():
    x = vectors()
    book = fitted(x)
    np.testing.assert_allclose(book.mean.numpy(), x.mean(0), rtol=1e-5)
    torch.testing.assert_close(book.components @ book.components.T, torch.eye(6), atol=1e-5, rtol=0)
    kept = ((x - x.mean(0)) @ book.components.numpy().T).var(0)
    np.testing.assert_allclose(kept, np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1][:6], rtol=1e-3)
    assert all(t.dtype == torch.float32 for t in (book.mean, book.components, book.centroids))


def test_fit_same_seed_gives_same_centroids_for_any_seed():
    x = vectors()
    same, other = fitted(x, seed=1), fitted(x, seed=2)
    assert torch.equal(fitted(x, seed=1).centroids, same.centroids)
    assert not torch.equal(other.centroids, same.centroids)
    assert torch.equal(other.components, same.components)
    assert torch.equal(fitted(x, seed=2**32 + 1).centroids, same.centroids)  # scikit-learn's seeds have 32 bits
    largest = 2**32 - 1
    assert fitted(x, seed=largest).centroids.isfinite().all()  # the second level's seed is beyond them


def test_fit_each_level_has_a_seed_of_its_own():
    """Level n is scikit-learn's k-means of the residual, at most 15 iterations from `seed + n`."""
    x = np.random.default_rng(0).standard_normal((3000, 12)).astype(np.float32)  # no clusters: 15 rounds do not end it
    book = fitted(x, levels=2, centroids=60, seed=5)
    residual = ((x - x.mean(0)) @ book.components.numpy().T).astype(np.float32)
    for level in range(2):
        means = KMeans(60, init="random", n_init=1, max_iter=15, random_state=5 + level).fit(residual)
        np.testing.assert_allclose(book.centroids[level].numpy(), means.cluster_centers_, atol=1e-5)
        residual -= means.cluster_centers_[means.labels_]


def test_fit_announces_every_part_of_the_work():
    said: list[str] = []
    book = fitted(vectors(), said, levels=2)
    assert said == ["principal components", "codebook level 1 of 2", "codebook level 2 of 2"]
    said.clear()
    fitted(vectors(seed=3), said, levels=2, start=book)
    assert said == ["codebook level 1 of 2", "codebook level 2 of 2"]


def test_fit_from_a_start_keeps_components_and_meanings():
    x = vectors()
    book = fitted(x)
    again = fitted(x + np.float32(0.01), start=book, seed=77)
    assert torch.equal(again.components, book.components)
    assert torch.equal(again.mean, book.mean)
    assert not torch.equal(again.centroids, book.centroids)
    same = again.encode(torch.from_numpy(x)) == book.encode(torch.from_numpy(x))
    assert same[:, 0].float().mean() > 0.95
    assert fitted(x, seed=77).encode(torch.from_numpy(x))[:, 0].ne(book.encode(torch.from_numpy(x))[:, 0]).any()


def test_fit_few_vectors_are_accepted_or_refused_without_warnings(recwarn):
    same = np.repeat(vectors(3), 4, axis=0)  # three different vectors for ten centroids
    book = fitted(same)
    np.testing.assert_allclose(book.reconstruct(book.quantize(torch.from_numpy(same))).numpy(), same, atol=0.3)
    assert not recwarn.list
    fitted(vectors(10))
    with pytest.raises(
        ValueError, match="the corpus has 9 frames, too few for 10 centroids or components: add recordings"
    ):
        fitted(vectors(9))
    with pytest.raises(ValueError, match=r"has 11 frames, too few for 12 .*lower representation.centroids and repr"):
        fitted(vectors(11), components=12)
