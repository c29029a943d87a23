"""Radiometry rules: stated numbers, one rule for both dates, errors that show the values."""

import json

import numpy as np
import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.radiometry import (
    Identity,
    Linear,
    Percentile,
    from_spec,
    no_rule_error,
    thinned,
    thinning_step,
)


def test_linear_maps_low_to_0_and_high_to_255_after_scale_and_offset():
    stored = np.array([0, 1000, 2500, 4000, 65535], np.uint16)
    mapped = Linear(scale=0.0001, offset=-0.1, low=0, high=0.3).apply(stored)
    assert mapped.dtype == np.float32
    np.testing.assert_allclose(mapped, [0, 0, 127.5, 255, 255], atol=1e-4)


def test_percentile_uses_one_stretch_for_both_dates_and_one_per_band():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 1000, (2, 3, 40, 50)).astype(np.uint16)
    b = b + np.uint16(500)
    rule = Percentile(2, 98).fit(a, b)
    for band in range(3):
        low, high = np.percentile(a[band], 2), np.percentile(b[band], 98)
        expected = np.clip((a[band].astype(float) - low) / (high - low) * 255, 0, 255)
        np.testing.assert_allclose(rule.apply(a)[band], expected, atol=1e-3)
    channels_last = rule.apply(np.moveaxis(a, 0, -1), band_axis=-1)
    np.testing.assert_array_equal(np.moveaxis(channels_last, -1, 0), rule.apply(a))


def test_percentile_of_many_images_is_that_of_each_date_together():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 100, (2, 5, 3, 8, 9)) + np.arange(5).reshape(5, 1, 1, 1) * 50
    b[..., 0] = np.nan
    rule = Percentile(5, 90).fit(list(a), list(b))
    for band, (low, high) in enumerate(rule.bounds):
        found = [np.nanpercentile(date[:, band], (5, 90)) for date in (a, b)]
        assert low == min(found[0][0], found[1][0])
        assert high == max(found[0][1], found[1][1])
    only = Percentile().fit(a[0], np.full((3, 2, 2), np.nan))  # a date without data tells nothing
    assert only == Percentile().fit(a[0])


def test_percentile_leaves_out_nan_and_masked_values():
    values = np.linspace(0, 100, 101, dtype=np.float32).reshape(1, 1, 101)
    with_nan = np.concatenate([values, np.full((1, 1, 50), np.nan, np.float32)], 2)
    masked = np.ma.masked_greater(np.concatenate([values, values + 1000], 2), 500)
    assert Percentile(2, 98).fit(values) == Percentile(2, 98).fit(with_nan)
    assert Percentile(2, 98).fit(values) == Percentile(2, 98).fit(masked)
    with pytest.raises(UserError, match='no valid pixel'):
        Percentile().fit(np.full((1, 2, 2), np.nan))


def test_flat_band_becomes_0_instead_of_dividing_by_nothing():
    flat = np.full((1, 4, 4), 700, np.uint16)
    assert not Percentile().fit(flat).apply(flat).any()


def test_nan_stays_nan():
    assert np.isnan(Linear(high=1).apply(np.array([np.nan], np.float32))).all()


@pytest.mark.parametrize(
    ('spec', 'rule'),
    [
        ('identity', Identity()),
        ('linear(low=0, high=3000)', Linear(low=0, high=3000)),
        ('linear(0.5, -1, 0, 2)', Linear(0.5, -1, 0, 2)),
        ('percentile', Percentile(2, 98)),
        ('percentile(1,99)', Percentile(1, 99)),
        ({'type': 'percentile', 'low': 5, 'high': 95}, Percentile(5, 95)),
    ],
)
def test_spec_names_a_rule_and_description_is_read_back(spec, rule):
    assert from_spec(spec) == rule
    assert from_spec(json.loads(json.dumps(rule.describe()))) == rule
    assert from_spec(str(rule)) == rule


def test_description_of_a_fitted_rule_keeps_its_values():
    rule = Percentile().fit(np.arange(300, dtype=np.uint16).reshape(3, 10, 10))
    assert from_spec(json.loads(json.dumps(rule.describe()))) == rule
    assert rule.fit(np.zeros((3, 4, 4))) is rule


@pytest.mark.parametrize(
    'spec',
    [
        '',
        'log',
        'linear(1, 2',
        'linear(a)',
        'linear(1, 2, 3, 4, 5)',
        'linear(low=5, high=5)',
        'linear(high=inf)',
        'linear(scale=0)',
        'percentile(98, 2)',
        'percentile(-1, 50)',
        'percentile(nan, 50)',
        'identity(3)',
        None,
        7,
        {},
        {'type': ['linear']},
        {'type': 'linear', 'gamma': 2},
        {'type': 'linear', 'high': 'x'},
        {'type': 'percentile', 'bounds': [[1]]},
        {'type': 'percentile', 'bounds': [[2, 1]]},
    ],
)
def test_bad_rule_is_refused(spec):
    with pytest.raises(UserError, match='radiometry'):
        from_spec(spec)


def test_percentile_refuses_other_bands_and_use_before_fit():
    with pytest.raises(UserError, match='not been taken'):
        Percentile().apply(np.zeros((3, 2, 2)))
    with pytest.raises(UserError, match='3 bands'):
        Percentile().fit(np.random.rand(3, 8, 8)).apply(np.zeros((4, 2, 2)))


def test_identity_refuses_other_types_with_values_and_advice():
    with pytest.raises(UserError, match=r'uint16.*98.*linear\(low=0, high=3000\).*percentile'):
        Identity().apply(np.full((3, 4, 4), 3000, np.uint16))
    image = np.zeros((3, 2, 2), np.uint8)
    assert Identity().apply(image) is image


def test_refusal_shows_each_date_and_the_option():
    error = no_rule_error(
        'pair 7',
        {'A': np.full(9, 100, np.uint16), 'B': np.full(9, np.nan)},
        '--stretch "{rule}"',
    )
    assert 'A holds uint16' in str(error)
    assert 'B: no valid value' in str(error)
    assert '--stretch "percentile(2, 98)"' in str(error)


def test_thinned_sample_depends_on_the_size_alone():
    image = np.arange(3 * 1000 * 600).reshape(3, 1000, 600)
    assert thinning_step(1000, 600) == 2
    assert thinned(image).shape == (3, 500, 300)
    np.testing.assert_array_equal(
        thinned(np.moveaxis(image, 0, -1), band_axis=-1), np.moveaxis(thinned(image), 0, -1)
    )
    assert thinning_step(512, 3) == 1
