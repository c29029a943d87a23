"""Which teacher teaches an image, beside the paper's: the origin, a cascade, the best on the image,
one that has not seen it; and how much a pixel counts where the teacher is wrong."""

import pytest
import torch
import torch.nn.functional as F

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.building import build_detector
from mtkd_cd.registry import MODELS

RANGES = ('small', 'medium', 'large')
CARS = (0.01, 0.1, 0.5, 0.05)
INPUTS = torch.randn(4, 6, 20, 20, generator=torch.Generator().manual_seed(1))


def build(toy, checkpoints, **kwargs):
    """A distiller in eval mode, whose loss is the MSE itself."""
    model = dict(
        type='MultiTeacherDistiller',
        student=toy.config(),
        checkpoints=checkpoints,
        distill_loss=dict(type='ChangeMapMSELoss'),
    )
    distiller = MODELS.build(dict(model, **kwargs))
    distiller.init_weights()
    return distiller.eval()


def loss_of(distiller, samples):
    return distiller.loss(INPUTS[: len(samples)], samples)['loss_distill']


def taught(distiller, names):
    """What the named teachers say about the images, in the order of the images."""
    with torch.no_grad():
        return torch.cat(
            [
                distiller.teachers[name](INPUTS[i : i + 1], mode='tensor')
                for i, name in enumerate(names)
            ]
        )


def test_origin_teaches_everything_and_no_specialist_is_needed(toy):
    distiller = build(toy, toy.checkpoints('student'), routing='origin')
    assert list(distiller.teachers) == ['origin']
    with torch.no_grad():
        distiller.backbone.conv.weight.add_(0.1)
    expected = F.mse_loss(distiller(INPUTS, mode='tensor'), taught(distiller, ['origin'] * 4))
    torch.testing.assert_close(loss_of(distiller, toy.samples(CARS)), expected)


def test_another_architecture_teaches_all_ranges(toy):
    strong = toy.config(channels=12)
    files = toy.checkpoints('student', *RANGES, configs=dict.fromkeys(RANGES, strong))
    distiller = build(toy, files, teachers=strong)
    assert {t.backbone.conv.out_channels for t in distiller.teachers.values()} == {12}
    assert distiller.backbone.conv.out_channels == 8
    expected = F.mse_loss(
        distiller(INPUTS, mode='tensor'), taught(distiller, ('small', 'medium', 'large', 'small'))
    )
    torch.testing.assert_close(loss_of(distiller, toy.samples(CARS)), expected)


def test_another_architectures_origin_teaches_a_small_student(toy):
    strong = toy.config(channels=12)
    files = toy.checkpoints('student', 'origin', configs={'origin': strong})
    distiller = build(toy, files, teachers=dict(origin=strong), routing='origin')
    expected = build_detector(strong)
    expected.load_state_dict(torch.load(files['origin'])['state_dict'])
    expected = expected.eval()(INPUTS, mode='tensor')
    torch.testing.assert_close(taught(distiller, ['origin'] * 4), expected)
    del files['origin']
    with pytest.raises(UserError, match='missing: origin'):
        build(toy, files, teachers=strong, routing='origin')


def test_cascade_as_teacher_routes_by_the_car_that_its_origin_predicts(toy):
    files = toy.checkpoints('student', *RANGES)
    distiller = build(toy, files, routing='cascade', thresholds=(0.3, 0.7))
    cascade = MODELS.build(
        dict(
            type='OriginPartitionCascade',
            origin=toy.config(),
            thresholds=(0.3, 0.7),
            checkpoints={'origin': files['student'], **{name: files[name] for name in RANGES}},
        )
    ).eval()
    names = [sample.metainfo['range'] for sample in cascade(INPUTS)]
    stored = toy.samples([0.99] * 4)  # by the label: large
    expected = F.mse_loss(distiller(INPUTS, mode='tensor'), taught(distiller, names))
    torch.testing.assert_close(loss_of(distiller, stored), expected)
    assert set(names) != {'large'}


def test_best_teacher_has_the_smallest_cross_entropy_on_the_image(toy):
    distiller = build(toy, toy.checkpoints('student', *RANGES), routing='best')
    with torch.no_grad():
        distiller.backbone.conv.weight.add_(0.1)
    samples = toy.samples(CARS, ignored_rows=4)
    names, labels = ('origin', *RANGES), torch.cat([s.gt_sem_seg.data for s in samples])
    entropies = []
    for name in names:
        logits = F.interpolate(taught(distiller, [name] * 4), size=(20, 20), mode='bilinear')
        losses = F.cross_entropy(logits, labels, ignore_index=255, reduction='none')
        entropies.append(losses.sum((1, 2)) / (labels != 255).sum((1, 2)))
    best = [names[index] for index in torch.stack(entropies).argmin(0)]
    assert len(set(best)) > 1
    error = (distiller(INPUTS, mode='tensor') - taught(distiller, best)).square()
    expected = error[:, :, :8].mean()  # 16 of 20 rows are valid
    torch.testing.assert_close(loss_of(distiller, samples), expected)


def test_of_equally_good_teachers_the_origin_teaches(toy):
    files = dict.fromkeys(('student', *RANGES), toy.checkpoints('student')['student'])
    distiller = build(toy, files, routing='best')
    lessons = distiller.distillation.begin(INPUTS, toy.samples(CARS), [])()
    assert [lesson.positions for lesson in lessons] == [[0, 1, 2, 3]]


@pytest.mark.parametrize('wrong_weight', [0.0, 0.25])
def test_pixels_where_the_teacher_is_wrong_count_less(toy, wrong_weight):
    distiller = build(
        toy,
        toy.checkpoints('student', *RANGES),
        student=toy.config(stride=1),
        wrong_weight=wrong_weight,
    )
    samples = toy.samples(CARS, ignored_rows=4)
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    teacher = taught(distiller, ('small', 'medium', 'large', 'small'))
    weight = torch.where(teacher.argmax(1) == labels, 1.0, wrong_weight) * (labels != 255)
    error = (distiller(INPUTS, mode='tensor') - teacher).square().mean(1)
    expected = (error * weight).sum() / weight.sum()
    assert 0 < (teacher.argmax(1) == labels).float().mean() < 1
    torch.testing.assert_close(loss_of(distiller, samples), expected)


def test_specialist_that_has_not_seen_the_image_teaches_it(toy):
    names = [f'{name}@{fold}' for name in RANGES for fold in (0, 1)]
    files = toy.checkpoints('student', *names)
    folder = files['student'].removesuffix('student.pth')
    checkpoints = {name: f'{folder}{name}@{{fold}}.pth' for name in RANGES}
    distiller = build(toy, dict(checkpoints, student=files['student']), folds=2)
    assert list(distiller.teachers) == names
    samples = toy.samples(CARS)
    for sample, fold in zip(samples, (1, 0, 0, 1)):
        sample.set_metainfo(dict(fold=fold))
    for name in names:
        expected = torch.load(files[name])['state_dict']['backbone.conv.weight']
        assert torch.equal(distiller.teachers[name].backbone.conv.weight, expected)
    teacher = taught(distiller, ('small@1', 'medium@0', 'large@0', 'small@1'))
    expected = F.mse_loss(distiller(INPUTS, mode='tensor'), teacher)
    torch.testing.assert_close(loss_of(distiller, samples), expected)
    samples[2].set_metainfo(dict(fold=2))
    with pytest.raises(UserError, match=r'B/2.png.* is of fold 2.*2 folds.*FoldDataset'):
        loss_of(distiller, samples)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(wrong_weight=2), 'wrong_weight=2'),
        (dict(folds=1), 'folds=1'),
        (dict(unlabelled=dict(weight=0)), 'unlabelled.weight=0'),
        (dict(unlabelled=dict(confidence=0.3)), 'unlabelled.confidence=0.3'),
        (dict(routing='best', compat='opencd'), "no routing='best'"),
        (dict(teachers=dict(tiny={})), "unknown CAR range 'tiny'"),
    ],
)
def test_bad_arguments_are_refused(toy, wrong, message):
    with pytest.raises(UserError, match=message):
        MODELS.build(dict(type='MultiTeacherDistiller', student=toy.config(), **wrong))


@pytest.mark.parametrize('broken', ['student', 'medium'])
def test_weights_that_are_no_numbers_never_teach(toy, broken):
    files = toy.checkpoints('student', *RANGES)
    content = torch.load(files[broken])
    content['state_dict']['backbone.conv.weight'][0] = torch.nan
    torch.save(content, files[broken])
    with pytest.raises(UserError, match=rf'{broken}\.pth.*backbone\.conv\.weight'):
        build(toy, files)
