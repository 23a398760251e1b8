"""The map's model: against published figures, SciPy's bivariate normal, a simulation, and plain cases."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from corea.analysis import map as savings
from corea.analysis import map_figures

# Largest saving at 2 points (r = .2, k = 1, LLM .80, rho = .85) of an independent simulation of the same model, and the
# paper's rule with a calibrated confidence: accuracies, then share kept, loss and saving.
GAPS = (0.04, 0.06, 0.08, 0.10, 0.15, 0.20, 0.36)
AUROCS = (0.60, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
SIMULATED = [
    (0.47, 0.58, 0.62, 0.65, 0.68, 0.70, 0.70),
    (0.25, 0.39, 0.45, 0.51, 0.56, 0.60, 0.64),
    (0.14, 0.26, 0.34, 0.40, 0.47, 0.53, 0.58),
    (0.08, 0.18, 0.24, 0.31, 0.39, 0.46, 0.53),
    (-0.02, 0.07, 0.12, 0.18, 0.24, 0.33, 0.42),
    (-0.06, 0.00, 0.04, 0.09, 0.16, 0.23, 0.33),
    (-0.13, -0.10, -0.07, -0.04, 0.00, 0.06, 0.14),
]
RULES = [
    (0.741, 0.796, 0.42, 0.008, 0.19),
    (0.60, 0.69, 0.35, 0.015, 0.12),
    (0.58, 0.69, 0.31, 0.017, 0.08),
]


def best(gap, auroc, rho=0.85, **options):
    return savings.largest_saving(savings.curve(0.8 - np.asarray(gap), 0.8, auroc, rho), **options)


def test_the_map_is_that_of_an_independent_simulation():
    found = best(np.array(GAPS)[:, None], np.array(AUROCS))
    # At a gap of .04 the loss is nearly flat in the share kept, so a draw moves where it crosses 2 points.
    np.testing.assert_allclose(found[0], SIMULATED[0], rtol=0, atol=0.025)
    np.testing.assert_allclose(found[1:], SIMULATED[1:], rtol=0, atol=0.011)


@pytest.mark.parametrize(("slm", "llm", "kept", "loss", "saving"), RULES)
def test_the_papers_rule_predicts_its_headlines(slm, llm, kept, loss, saving):
    found = savings.by_rule(slm, llm, 0.72, 0.85, price=0.23)
    np.testing.assert_allclose(found.loss, loss, rtol=0, atol=0.0006)
    np.testing.assert_allclose([found.kept, found.saving], [kept, saving], rtol=0, atol=0.006)


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [(0.3, 0.7, 0.5), (0.5, 0.5, 0.99), (0.9, 0.2, -0.8), (0.55, 0.77, 0.95), (0.001, 0.6, 0.0)],
)
def test_both_is_scipys_bivariate_normal(first, second, rho):
    limits, cov = norm.ppf([first, second]), [[1, rho], [rho, 1]]
    expected = multivariate_normal.cdf(limits, cov=cov, abseps=1e-10)
    assert savings.both(first, second, rho) == pytest.approx(expected, abs=1e-8)


def test_loss_auroc_and_correlation_are_those_of_drawn_latents():
    slm, llm, auroc, rho = 0.6, 0.75, 0.75, 0.7
    knows = float(savings.correlation_of(auroc, slm))
    rng = np.random.default_rng(0)
    margin, other, noise = rng.standard_normal((3, 400_000))
    other = rho * margin + np.sqrt(1 - rho**2) * other
    rank = (knows * margin + np.sqrt(1 - knows**2) * noise).argsort().argsort() / len(margin)
    right, llm_right = margin > norm.ppf(1 - slm), other > norm.ppf(1 - llm)
    drawn = (rank[right].mean() - rank[~right].mean()) + 0.5  # the AUROC, from mean ranks
    assert drawn == pytest.approx(auroc, abs=0.003)
    assert savings.tetrachoric(right, llm_right) == pytest.approx(rho, abs=0.006)
    found = savings.curve(slm, llm, auroc, rho, kept=[0, 0.3, 0.8, 1])
    np.testing.assert_allclose(savings.auroc_of(knows, slm), auroc, rtol=0, atol=1e-6)
    losses = [
        (llm_right & (rank >= 1 - k)).mean() - (right & (rank >= 1 - k)).mean() for k in (0.3, 0.8)
    ]
    exact = savings.curve(slm, llm, auroc, rho)
    np.testing.assert_allclose(np.interp((0.3, 0.8), exact.kept, exact.loss), losses, atol=0.003)
    assert found.loss[[0, -1]] == pytest.approx([0, llm - slm], abs=1e-9)


def test_ends_of_a_curve_and_who_is_paid():
    cascade = savings.curve(0.6, 0.8, 0.7, 0.8, price=0.2, dearer=1.1)
    assert cascade.saving[[0, -1]] == pytest.approx([1 - 0.2 - 1.1, 0.8])
    router = savings.curve(0.6, 0.8, 0.7, 0.8, price=0.2, before_generation=True)
    assert router.saving[[0, -1]] == pytest.approx([0.0, 0.8])
    np.testing.assert_allclose(router.loss, savings.curve(0.6, 0.8, 0.7, 0.8).loss)


def test_more_auroc_and_less_gap_save_more_and_no_gap_saves_all_but_the_price():
    found = best(np.array(GAPS)[:, None], np.array(AUROCS))
    assert (np.diff(found, axis=1) > 0).all() and (np.diff(found, axis=0) < 0).all()
    assert best(0.0, 0.7) == pytest.approx(0.8)
    assert best(0.08, 0.7, rho=0.7) > best(0.08, 0.7, rho=0.85) > best(0.08, 0.7, rho=0.95)


def test_a_coin_between_cascade_and_llm_saves_at_least_a_coin_without_a_cascade():
    gaps, aurocs = np.array([0.05, 0.1, 0.3])[:, None], np.array([0.5, 0.7, 0.9])
    mixed, coin = best(gaps, aurocs, alone=True), 0.8 * 0.02 / gaps
    assert (mixed >= np.maximum(best(gaps, aurocs), coin - 1e-9)).all()
    np.testing.assert_allclose(mixed[:, 0], coin[:, 0], atol=1e-6)  # a confidence that says nothing


def test_lumps_are_cut_only_between():
    """A confidence of three levels: the AUROC counts ties half, and a coin joins its cuts."""
    kept = np.array([0.0, 0.5, 0.9, 1.0])
    knows = savings.correlation_of(0.75, 0.6, kept)
    assert savings.auroc_of(knows, 0.6, kept) == pytest.approx(0.75, abs=1e-7)
    assert knows > savings.correlation_of(0.75, 0.6)
    lumpy, smooth = (savings.curve(0.6, 0.7, 0.75, 0.85, kept=k) for k in (kept, None))
    assert len(lumpy.loss) == 4
    assert savings.largest_saving(lumpy) != pytest.approx(
        float(savings.largest_saving(smooth)), abs=0.01
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            (40, 10, 10, 40),
            0.8090,
        ),  # sin(pi/2 (1 - 2 * .2)): medians cut both, so there is a formula
        ((25, 25, 25, 25), 0.0),
        ((10, 40, 40, 10), -0.8090),
        ((50, 0, 0, 50), 0.9995),  # both empty: half an answer in each cell
        ((50, 50, 0, 0), float("nan")),  # the first is always right
    ],
    ids=["alike", "independent", "opposed", "empty cells", "constant"],
)
def test_tetrachoric(cells, expected):
    first, second = np.repeat([[1, 1, 0, 0], [1, 0, 1, 0]], cells, axis=1)
    found = savings.tetrachoric(first, second)
    assert found == pytest.approx(expected, abs=6e-4, nan_ok=True)


def test_tetrachoric_of_shares_is_that_of_their_rows():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 5, 60)) < [[[0.6]], [[0.7]]]
    shares = [column.mean(axis=1) for column in (first, second, first & second)]
    each = [savings.tetrachoric(one, other) for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(savings.tetrachoric_of(*shares, 60), each, atol=1e-7)


def test_the_table_of_the_map_holds_its_cells():
    table = savings.table_map().set_index(["gap", "auroc", "rho", "price"])
    assert list(table.columns[:1]) == ["saving_best"] and "saving_rule" in table
    cell = table.loc[(0.08, 0.75, 0.85, 0.2)]
    assert cell["saving_best"] == pytest.approx(float(best(0.08, 0.75)), abs=1e-9)
    assert cell["saving_coin"] == pytest.approx(0.8 * 0.02 / 0.08)
    assert (table["saving_mixed"] >= table[["saving_best", "saving_coin"]].max(axis=1) - 1e-6).all()
    assert table.notna().all(axis=None)


def test_what_a_cascade_needs_is_read_from_the_map():
    needed = savings.auroc_needed(0.2, 0.12, rho=0.85, price=0.2)
    assert best(0.12, needed) == pytest.approx(0.2, abs=2e-3)
    said = map_figures.needs(rho=0.85, price=0.2)
    assert f"{needed:.2f} at 12" in said and "20% of the LLM's price" in said
    assert "more than 0.99" in map_figures.needs(rho=0.85, price=0.7)
