"""Cascade and distiller under a routing that a validation split decided."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.building import build_detector
from mtkd_cd.models.mtkd.routing import Routing
from mtkd_cd.registry import MODELS

RANGES = ('small', 'medium', 'large')
PARTITION = CARPartition()
INPUTS = torch.randn(4, 6, 20, 20, generator=torch.Generator().manual_seed(1))
CARS = (0.01, 0.1, 0.5, 0.05)  # small, medium, large, small


@pytest.fixture
def routing_file(tmp_path):
    """``routing_file(teachers, cuts, detectors)`` writes a file and returns its path."""

    def write(teachers=RANGES, cuts=(0.05, 0.2), detectors=RANGES):
        Routing(PARTITION, teachers, cuts, detectors).save(tmp_path / 'routing.json')
        return str(tmp_path / 'routing.json')

    return write


def build_cascade(toy, file, checkpoints=None, **kwargs):
    """A cascade whose origin finds change wherever the first channel of date A is positive."""
    cfg = dict(
        type='OriginPartitionCascade',
        origin=toy.config(),
        routing='validated',
        routing_file=file,
        **kwargs,
    )
    model = MODELS.build(
        dict(cfg, checkpoints=checkpoints or toy.checkpoints('origin', *RANGES))
    ).eval()

    def predict(inputs, samples):
        for image, sample in zip(inputs, samples):
            sample.set_data(
                dict(
                    pred_sem_seg=PixelData(data=(image[:1] > 0).long()),
                    seg_logits=PixelData(data=image[:2]),
                )
            )
        return samples

    model.origin.predict = predict
    return model


def inputs_with_cars(toy, cars):
    inputs = torch.randn(len(cars), 6, 20, 20, generator=torch.Generator().manual_seed(2))
    for image, car in zip(inputs, cars):
        image[0] = toy.label(car)[0] * 2.0 - 1
    return inputs


def build_distiller(toy, file, checkpoints=None, **kwargs):
    model = dict(
        type='MultiTeacherDistiller',
        student=toy.config(),
        routing='validated',
        routing_file=file,
        checkpoints=checkpoints or toy.checkpoints('student', *RANGES),
        distill_loss=dict(type='ChangeMapMSELoss', loss_weight=1.0),
    )
    distiller = MODELS.build(dict(model, **kwargs))
    distiller.init_weights()
    return distiller


def detector_from(file, config):
    detector = build_detector(config)
    detector.load_state_dict(torch.load(file)['state_dict'])
    return detector.eval()


def test_images_routed_to_the_origin_keep_its_prediction_and_cost_no_second_forward(
    toy, routing_file
):
    cascade = build_cascade(
        toy, routing_file(cuts=(0.03, 0.4), detectors=('origin', 'large', 'origin'))
    )
    forwards = []
    cascade.specialists['large'].backbone.register_forward_hook(
        lambda _m, args, _o: forwards.append(len(args[0]))
    )
    cars = (0.01, 0.1, 0.5, 0.03, 0.4)
    inputs = inputs_with_cars(toy, cars)
    cascade(inputs, toy.samples(cars), mode='predict')  # prepares its detectors, with a trial
    forwards.clear()
    results = cascade(inputs, toy.samples(cars), mode='predict')
    assert forwards == [2]
    assert [sample.metainfo['detector'] for sample in results] == [
        'origin',
        'large',
        'origin',
        'origin',
        'large',
    ]
    assert [sample.metainfo['range'] for sample in results] == [
        'small',
        'medium',
        'large',
        'small',
        'large',
    ]
    assert [sample.metainfo['coarse_car'] for sample in results] == pytest.approx(cars)
    for i in (0, 2, 3):
        assert torch.equal(results[i].pred_sem_seg.data, (inputs[i, :1] > 0).long())
        assert torch.equal(results[i].coarse_pred_sem_seg.data, results[i].pred_sem_seg.data)
        assert torch.equal(results[i].seg_logits.data, inputs[i, :2])
    for i in (1, 4):
        expected = cascade.specialists['large'].predict(
            inputs[i : i + 1], toy.samples(cars[i : i + 1])
        )[0]
        torch.testing.assert_close(results[i].seg_logits.data, expected.seg_logits.data)
        assert torch.equal(results[i].coarse_pred_sem_seg.data, (inputs[i, :1] > 0).long())


def test_cascade_loads_the_detectors_that_serve_and_no_others(toy, routing_file):
    files = toy.checkpoints('origin', *RANGES)
    unused = dict(files, small='absent.pth', large='absent.pth')
    cascade = build_cascade(
        toy, routing_file(cuts=(0.1, 0.3), detectors=('medium', 'origin', 'medium')), unused
    )
    assert list(cascade.specialists) == ['medium']
    for key, value in torch.load(files['medium'])['state_dict'].items():
        assert torch.equal(cascade.specialists['medium'].state_dict()[key], value)
    with pytest.raises(UserError, match=r'absent.pth does not exist'):
        build_cascade(toy, routing_file(detectors=('small', 'medium', 'origin')), unused)


def test_cascade_of_the_origin_alone_is_the_origin(toy, routing_file):
    cascade = build_cascade(toy, routing_file(cuts=(), detectors=('origin',)))
    assert len(cascade.specialists) == 0
    inputs = inputs_with_cars(toy, CARS)
    for image, sample in zip(inputs, cascade(inputs, toy.samples(CARS), mode='predict')):
        assert torch.equal(sample.pred_sem_seg.data, (image[:1] > 0).long())


def test_papers_routing_read_from_a_file_is_the_papers_cascade(toy, routing_file):
    files = toy.checkpoints('origin', *RANGES)
    validated = MODELS.build(
        dict(
            type='OriginPartitionCascade',
            origin=toy.config(),
            checkpoints=files,
            routing='validated',
            routing_file=routing_file(),
        )
    ).eval()
    paper = MODELS.build(
        dict(type='OriginPartitionCascade', origin=toy.config(), checkpoints=files)
    ).eval()
    for ours, theirs in zip(validated(INPUTS, toy.samples(CARS)), paper(INPUTS, toy.samples(CARS))):
        assert torch.equal(ours.seg_logits.data, theirs.seg_logits.data)
        assert ours.metainfo['range'] == theirs.metainfo['range'] == theirs.metainfo['detector']


def test_ranges_are_taught_by_the_detectors_of_the_file(toy, routing_file):
    """`small` by the frozen origin, `medium` and `large` by large's specialist, in one forward
    each."""
    files = toy.checkpoints('student', *RANGES)
    distiller = build_distiller(
        toy, routing_file(teachers=('origin', 'large', 'large')), files
    ).eval()
    assert list(distiller.teachers) == ['origin', 'large']
    with torch.no_grad():
        distiller.student.backbone.conv.weight.add_(
            0.1
        )  # the student moves on, its frozen start does not
    origin, large = (detector_from(files[name], toy.config()) for name in ('student', 'large'))
    taught = torch.cat(
        [
            teacher(INPUTS[i : i + 1], mode='tensor')
            for i, teacher in enumerate((origin, large, large, origin))
        ]
    )
    student = distiller.student(INPUTS, mode='tensor')
    forwards = []
    for name, teacher in distiller.teachers.items():
        teacher.register_forward_hook(
            lambda _m, args, _o, name=name: forwards.append((name, len(args[0])))
        )
    torch.testing.assert_close(
        distiller.loss(INPUTS, toy.samples(CARS))['loss_distill'], F.mse_loss(student, taught)
    )
    assert forwards == [('origin', 2), ('large', 2)]


def test_frozen_origin_teaches_without_gradients_and_stays_as_it_was(toy, routing_file):
    distiller = build_distiller(toy, routing_file(teachers=('origin',) * 3)).train()
    before = copy.deepcopy(distiller.teachers['origin'].state_dict())
    assert not distiller.teachers['origin'].training
    optim = torch.optim.SGD(distiller.parameters(), lr=0.1)
    for _ in range(3):
        optim.zero_grad()
        sum(
            value
            for key, value in distiller.loss(INPUTS, toy.samples(CARS)).items()
            if 'loss' in key
        ).backward()
        optim.step()
    for key, value in distiller.teachers['origin'].state_dict().items():
        assert torch.equal(value, before[key])
    assert not torch.equal(distiller.student.backbone.conv.weight, before['backbone.conv.weight'])


def test_distiller_loads_the_teachers_that_teach_and_no_others(toy, routing_file):
    unused = dict(toy.checkpoints('student', *RANGES), small='absent.pth')
    assert list(
        build_distiller(toy, routing_file(teachers=('medium', 'medium', 'large')), unused).teachers
    ) == ['medium', 'large']
    with pytest.raises(UserError, match=r'absent.pth does not exist'):
        build_distiller(toy, routing_file(), unused)


def test_without_checkpoints_the_origin_teaches_as_the_student_starts(toy, routing_file):
    model = dict(
        type='MultiTeacherDistiller',
        student=toy.config(),
        routing='validated',
        routing_file=routing_file(teachers=('origin',) * 3),
    )
    distiller = MODELS.build(model)
    distiller.init_weights()
    assert distiller.teachers['origin'] is not distiller.student
    assert torch.equal(
        distiller.teachers['origin'].backbone.conv.weight, distiller.student.backbone.conv.weight
    )


def test_prediction_of_a_student_needs_no_routing_file(toy):
    model = dict(
        type='MultiTeacherDistiller',
        student=toy.config(),
        routing='validated',
        routing_file='absent.json',
    )
    distiller = MODELS.build(model).eval()
    assert len(distiller(INPUTS, toy.samples(CARS), mode='predict')) == 4
    with pytest.raises(UserError, match=r'absent.json does not exist. Make it with'):
        distiller.init_weights()


def test_cascade_without_its_routing_file_names_the_command(toy):
    with pytest.raises(
        UserError,
        match=(
            r'routing.json does not exist. '
            r'Make it with: .*fc_ef --strategies op --routing validated'
        ),
    ):
        build_cascade(toy, 'work_dirs/routing/fc_ef/routing.json')


@pytest.mark.parametrize(
    'model', [dict(type='OriginPartitionCascade'), dict(type='MultiTeacherDistiller')]
)
def test_bad_routing_is_refused(toy, model, routing_file):
    key, file = 'origin' if 'Cascade' in model['type'] else 'student', routing_file()
    model = dict(model, **{key: toy.config()})
    with pytest.raises(UserError, match="routing='nobody'"):
        MODELS.build(dict(model, routing='nobody'))
    with pytest.raises(UserError, match='needs routing_file'):
        MODELS.build(dict(model, routing='validated'))
    with pytest.raises(UserError, match='other ranges'):
        MODELS.build(
            dict(model, routing='validated', routing_file=file, thresholds=(0.1,))
        ).init_weights()


def test_comparison_with_open_cd_has_no_validated_routing(toy, routing_file):
    with pytest.raises(UserError, match=r"compat='opencd' .* routing='validated'"):
        build_distiller(toy, routing_file(), compat='opencd')
