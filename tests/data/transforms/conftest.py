"""Pairs in memory, and the arithmetic of the two training pipelines written down once more,
plainly, from the specification."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest


def make_scene(height, width, seed=0):
    """(date A, date B, label): smooth colours with noise, and a blob of changes; none of it
    symmetric."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (2, 6, 7, 3), dtype=np.uint8)
    dates = [cv2.resize(date, (width, height), interpolation=cv2.INTER_CUBIC) for date in coarse]
    dates = [cv2.add(date, rng.integers(0, 40, date.shape, dtype=np.uint8)) for date in dates]
    label = np.zeros((height, width), np.uint8)
    cv2.ellipse(
        label, (int(width * 0.4), int(height * 0.6)), (width // 3, height // 5), 30, 0, 360, 1, -1
    )
    return (*dates, label)


@pytest.fixture
def scene():
    return make_scene


@pytest.fixture
def results():
    """``results(height, width)``: what a pipeline holds after loading; ``same=True`` for two equal
    dates."""

    def make(height=48, width=64, seed=0, same=False):
        date_a, date_b, label = make_scene(height, width, seed)
        return {
            'img': [date_a, date_a.copy() if same else date_b],
            'img_shape': (height, width),
            'ori_shape': (height, width),
            'gt_seg_map': label,
            'seg_fields': ['gt_seg_map'],
            'car': float(label.mean()),
        }

    return make


def rotate(image, angle, fill, interpolation):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle, 1.0)
    return cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=interpolation,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )


def rotate_all(dates, label, angle):
    return [rotate(date, angle, 0, cv2.INTER_LINEAR) for date in dates], rotate(
        label, angle, 255, cv2.INTER_NEAREST
    )


def random_rotate(dates, label, prob, degree):
    chosen = np.random.rand() < prob
    angle = np.random.uniform(-degree, degree)
    return rotate_all(dates, label, angle) if chosen else (dates, label)


def random_rot_flip(dates, label, degree):
    rotated = np.random.random() < 0.5
    if rotated:
        dates, label = rotate_all(dates, label, np.random.uniform(-degree, degree))
    if np.random.random() < 0.5 and not rotated:
        turns = np.random.randint(0, 4)
        axis = np.random.randint(0, 2)
        dates, label = (
            [np.flip(np.rot90(date, turns), axis) for date in dates],
            np.flip(np.rot90(label, turns), axis),
        )
    return dates, label


def random_crop(dates, label, size, cat_max_ratio):
    def draw():
        top = np.random.randint(0, max(label.shape[0] - size, 0) + 1)
        left = np.random.randint(0, max(label.shape[1] - size, 0) + 1)
        return np.s_[top : top + size, left : left + size]

    box = draw()
    for _ in range(10):
        values, counts = np.unique(label[box], return_counts=True)
        counts = counts[values != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio:
            break
        box = draw()
    return [date[box] for date in dates], label[box]


def random_flip(dates, label, prob, axis):
    if np.random.choice(np.array(['flip', None], object), p=[prob, 1 - prob]) is None:
        return dates, label
    return [np.flip(date, axis) for date in dates], np.flip(label, axis)


def scale(values, factor=1.0, shift=0.0):
    return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


def distort(date, contrast_first=None, brightness=10, low=0.8, high=1.2, hue=10):
    if np.random.randint(2):
        date = scale(date, shift=np.random.uniform(-brightness, brightness))
    if contrast_first is None:
        contrast_first = np.random.randint(2)
    if contrast_first and np.random.randint(2):
        date = scale(date, np.random.uniform(low, high))
    if np.random.randint(2):
        hsv = cv2.cvtColor(np.ascontiguousarray(date), cv2.COLOR_BGR2HSV)
        hsv[..., 1] = scale(hsv[..., 1], np.random.uniform(low, high))
        date = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if np.random.randint(2):
        hsv = cv2.cvtColor(np.ascontiguousarray(date), cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + np.random.randint(-hue, hue)) % 180
        date = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not contrast_first and np.random.randint(2):
        date = scale(date, np.random.uniform(low, high))
    return date


def pack(dates, label):
    return np.concatenate([date.transpose(2, 0, 1) for date in dates]), label[None].astype(np.int64)


def pipeline_p1(dates, label, crop):
    dates, label = random_rotate(dates, label, 0.5, 180)
    dates, label = random_crop(dates, label, crop, 0.75)
    dates, label = random_flip(dates, label, 0.5, axis=1)
    dates, label = random_flip(dates, label, 0.5, axis=0)
    return pack([distort(date) for date in dates], label)


def pipeline_p2(dates, label, crop):
    dates, label = random_rot_flip(dates, label, 20)
    dates, label = random_crop(dates, label, crop, 0.75)
    if np.random.rand() < 0.5:
        dates = dates[::-1]
    return pack([distort(date) for date in dates], label)


@pytest.fixture
def plain():
    """The functions above: draws in the order of the specification, each step in its simplest
    form."""
    return SimpleNamespace(p1=pipeline_p1, p2=pipeline_p2, distort=distort, rotate=rotate)
