import copy
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import DefaultScope

from mtkd_cd.core import background
from mtkd_cd.core.errors import UserError
from mtkd_cd.models import MultiTeacherDistiller, prepare
from mtkd_cd.models.mtkd import teachers
from mtkd_cd.models.mtkd.building import build_detector
from mtkd_cd.registry import MODELS

THREE = ('student', 'small', 'medium', 'large')
CARS = (0.01, 0.1, 0.5, 0.05)  # small, medium, large, small
INPUTS = torch.randn(4, 6, 20, 20, generator=torch.Generator().manual_seed(1))


def build(toy, names=THREE, config=None, configs=(), weight=1.0, **kwargs):
    """A distiller with weights loaded, in training mode."""
    config = config or toy.config()
    distiller = MODELS.build(
        dict(
            type='MultiTeacherDistiller',
            student=config,
            checkpoints=toy.checkpoints(*names, config=config, configs=configs),
            distill_loss=dict(type='ChangeMapMSELoss', loss_weight=weight),
            teachers=dict(configs) or None,
            **kwargs,
        )
    )
    distiller.init_weights()
    return distiller.train()


def without_dropout(module):
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout2d):
            part.p = 0.0
    return module


def detector_from(file, config):
    detector = build_detector(config)
    detector.load_state_dict(torch.load(file)['state_dict'])
    return detector.eval()


def test_decode_head_of_student_runs_once_per_step(toy):
    distiller = build(toy)
    head = type(distiller.decode_head)
    teachers = distiller.teachers
    teacher_forwards = []
    for teacher in teachers.values():
        teacher.register_forward_hook(lambda *_: teacher_forwards.append(1))
    distiller.loss(INPUTS, toy.samples(CARS))  # the first step prepares the teachers
    head.forwards = 0
    teacher_forwards.clear()
    distiller.loss(INPUTS, toy.samples(CARS))
    assert len(teacher_forwards) == 3  # one per range in the batch, though two images are small
    assert head.forwards - len(teacher_forwards) == 1


def _step(toy, amp=False, **options):
    """Losses and gradients of a step, and the threads on which its teachers answer."""
    distiller = without_dropout(build(toy, **options))
    threads = set()
    for teacher in distiller.teachers.values():
        teacher.register_forward_hook(lambda *_: threads.add(threading.current_thread()))
    distiller.loss(INPUTS, toy.samples(CARS))  # they are asked first the first time
    threads.clear()
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        losses = distiller.loss(INPUTS, toy.samples(CARS))
    distiller.parse_losses(losses)[0].backward()
    return losses, {name: one.grad for name, one in distiller.named_parameters()}, threads


@pytest.mark.parametrize('amp', [False, True])
def test_teachers_that_answer_beside_the_student_teach_as_before_it(toy, monkeypatch, amp):
    monkeypatch.setattr(background, 'processors', lambda: 1)
    losses, gradients, here = _step(toy, amp)
    monkeypatch.setattr(background, 'processors', lambda: 2)
    losses_beside, gradients_beside, there = _step(toy, amp)
    assert here == {threading.current_thread()}
    assert len(there) == 1
    assert not here & there
    torch.testing.assert_close(losses_beside, losses, rtol=0, atol=0)
    torch.testing.assert_close(gradients_beside, gradients, rtol=0, atol=0)


@pytest.mark.parametrize(
    'options', [dict(teacher_options=dict(compiled=True)), dict(teacher_batching='stacked')]
)
def test_teachers_that_are_compiled_or_stacked_answer_before_the_student(toy, monkeypatch, options):
    monkeypatch.setattr(background, 'processors', lambda: 2)
    monkeypatch.setattr(prepare, '_compile', lambda detector: None)
    *_, threads = _step(toy, **options)
    assert threads == {threading.current_thread()}


def test_a_teacher_that_draws_random_numbers_answers_before_the_student(toy, monkeypatch):
    """Both draw from torch's one generator, so their order must not depend on the machine."""
    monkeypatch.setattr(background, 'processors', lambda: 2)
    distiller = build(toy)
    threads = set()

    def draw(*_):
        torch.rand(1)
        threads.add(threading.current_thread())

    for teacher in distiller.teachers.values():
        teacher.register_forward_hook(draw)
    for _ in range(3):
        distiller.loss(INPUTS, toy.samples(CARS))
    assert threads == {threading.current_thread()}


def test_teachers_see_the_inputs_as_they_were_when_asked(toy, monkeypatch):
    monkeypatch.setattr(background, 'processors', lambda: 2)
    distiller = build(toy)
    may_answer = threading.Event()
    may_answer.set()
    for teacher in distiller.teachers.values():
        teacher.register_forward_pre_hook(lambda *_: may_answer.wait(10) and None)
    samples = toy.samples((0.01,) * 4)  # one teacher for the whole batch
    expected = distiller.distillation.begin(INPUTS, samples, [])()
    may_answer.clear()
    inputs = INPUTS.clone()
    lessons = distiller.distillation.begin(inputs, samples, [])
    inputs.mul_(0.5)
    may_answer.set()
    torch.testing.assert_close(lessons()[0].change_maps, expected[0].change_maps, rtol=0, atol=0)


def test_teachers_on_the_second_thread_leave_the_weights_that_autocast_has_converted(toy):
    weight = torch.nn.Parameter(torch.eye(4))
    with torch.autocast('cpu', torch.bfloat16):
        before = F.linear(torch.ones(1, 4), weight).grad_fn
        background.begin(teachers._as_here(lambda: None))()
        after = F.linear(torch.ones(1, 4), weight).grad_fn
    assert _converted(before) == _converted(after)


def _converted(node):
    """Of the graph of a product, the node that converted its weight."""
    while 'ToCopy' not in node.name():
        (node,) = (one for one, _ in node.next_functions if one is not None)
    return node


def test_losses_are_the_students_own_and_loss_distill(toy):
    distiller = build(toy)
    losses = distiller.loss(INPUTS, toy.samples(CARS))
    assert set(losses) == {'decode.loss_ce', 'decode.acc_seg', 'loss_distill', 'mse_distill'}
    total, _ = distiller.parse_losses(losses)
    assert total.item() == pytest.approx((losses['decode.loss_ce'] + losses['loss_distill']).item())
    assert losses['loss_distill'] > 0


def test_students_own_losses_equal_those_of_the_detector_alone(toy):
    distiller = build(toy)
    alone = build_detector(toy.config())
    alone.load_state_dict(distiller.state_dict())
    torch.manual_seed(3)
    expected = alone.train().loss(INPUTS, toy.samples(CARS))['decode.loss_ce']
    torch.manual_seed(3)
    torch.testing.assert_close(
        distiller.loss(INPUTS, toy.samples(CARS))['decode.loss_ce'], expected, rtol=0, atol=0
    )


def test_teachers_are_bit_identical_after_twenty_steps_and_hold_no_gradients(toy):
    distiller = build(toy)
    before = {
        name: copy.deepcopy(teacher.state_dict()) for name, teacher in distiller.teachers.items()
    }
    start = copy.deepcopy(distiller.state_dict())
    optim = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=1e-2))
    for _ in range(20):
        distiller.train()
        distiller.train_step(dict(inputs=INPUTS, data_samples=toy.samples(CARS)), optim)
    for name, teacher in distiller.teachers.items():
        assert not teacher.training
        assert not any(module.training for module in teacher.modules())
        assert all(
            parameter.grad is None and not parameter.requires_grad
            for parameter in teacher.parameters()
        )
        for key, value in teacher.state_dict().items():
            assert torch.equal(value, before[name][key]), key
    moved = [
        key for key, value in distiller.state_dict().items() if not torch.equal(value, start[key])
    ]
    assert set(moved) == set(start)  # every parameter and statistic of the student did move


def test_rotated_image_with_ignored_fill_keeps_its_teacher(toy):
    """CAR 0.04 of the stored label; cut to a third of its valid pixels by a rotation it would be
    0.12, a `medium` one."""
    distiller = build(toy)
    sample = toy.samples([0.04])[0]
    label = sample.gt_sem_seg.data
    label[:, 7:] = 255
    assert (label == 1).sum() / (label != 255).sum() > 0.05
    assert distiller.ranges([sample]).tolist() == [0]
    assert build(toy, car_source='augmented').ranges([sample]).tolist() == [1]


def test_teacher_of_image_without_stored_car_follows_valid_pixels_of_augmented_label(toy):
    distiller = build(toy)
    samples = toy.samples([0.04, 0.1, 0.3], stored=False, ignored_rows=2)
    # fill counted as change would give 0.14, 0.2, 0.4
    assert distiller.ranges(samples).tolist() == [0, 1, 2]


@pytest.mark.parametrize('source', ['stored', 'augmented'])
def test_car_of_exactly_a_threshold_belongs_to_the_range_below(toy, source):
    samples = toy.samples([0.05, 0.2], stored=source == 'stored')
    assert build(toy, car_source=source).ranges(samples).tolist() == [0, 1]


def test_forced_stored_source_refuses_sample_without_car(toy):
    distiller = build(toy, car_source='stored')
    with pytest.raises(UserError, match=r'B/0.png.*CARPartitionDataset'):
        distiller.ranges(toy.samples([0.1], stored=False))


def test_opencd_compat_counts_fill_as_change_and_excludes_the_threshold(toy):
    distiller = build(toy, compat='opencd')
    assert distiller.ranges(toy.samples([0.04], ignored_rows=1)).tolist() == [
        1
    ]  # 0.04 + 1/20 of fill
    assert distiller.ranges(toy.samples([0.05])).tolist() == [1]  # `<`: 0.05 is not small
    assert build(toy).ranges(toy.samples([0.05])).tolist() == [0]


def test_opencd_compat_equals_reference_procedure(toy):
    """Spec 9.3: teacher by mean(label > 0), image by image, then plain MSE over the concatenated
    raw outputs, all pixels included."""
    distiller = without_dropout(build(toy, compat='opencd', weight=0.7))
    samples = toy.samples(CARS, ignored_rows=3)
    student_map = {}
    distiller.decode_head.conv_seg.register_forward_hook(
        lambda _m, _i, output: student_map.update(raw=output)
    )
    loss = distiller.loss(INPUTS, samples)['loss_distill']
    taught = []
    for i, sample in enumerate(samples):
        car = (sample.gt_sem_seg.data > 0).float().mean()
        name = 'small' if car < 0.05 else 'medium' if car < 0.2 else 'large'
        with torch.no_grad():
            taught.append(distiller.teachers[name](INPUTS[i : i + 1], mode='tensor'))
    torch.testing.assert_close(loss, 0.7 * F.mse_loss(student_map['raw'], torch.cat(taught)))


def test_grouped_teacher_pass_equals_one_by_one_passes(toy):
    distiller = without_dropout(build(toy))
    samples = toy.samples(CARS)
    together = distiller.loss(INPUTS, samples)['loss_distill']
    distiller.student.eval()
    student_maps = distiller.student(INPUTS, mode='tensor')
    distiller.eval()
    grouped = distiller.loss(INPUTS, samples)['loss_distill']
    single = []
    for i, name in enumerate(('small', 'medium', 'large', 'small')):
        with torch.no_grad():
            single.append(
                F.mse_loss(
                    student_maps[i], distiller.teachers[name](INPUTS[i : i + 1], mode='tensor')[0]
                )
            )
    torch.testing.assert_close(grouped, torch.stack(single).mean())
    assert not torch.isclose(
        together, grouped
    )  # batch statistics against running ones: the modes do differ


def test_ignored_pixels_do_not_count_in_the_distillation_loss(toy):
    distiller = without_dropout(build(toy)).eval()
    samples = toy.samples(CARS, ignored_rows=10)  # lower half
    loss = distiller.loss(INPUTS, samples)['loss_distill']
    student = distiller.student(INPUTS, mode='tensor')
    taught = torch.cat(
        [
            distiller.teachers[name](INPUTS[i : i + 1], mode='tensor')
            for i, name in enumerate(('small', 'medium', 'large', 'small'))
        ]
    )
    torch.testing.assert_close(
        loss, F.mse_loss(student[:, :, :5], taught[:, :, :5])
    )  # stride 2: rows 0..4 of 10
    distiller.distillation.mask_ignored = False
    torch.testing.assert_close(
        distiller.loss(INPUTS, samples)['loss_distill'], F.mse_loss(student, taught)
    )


def test_batch_without_a_valid_pixel_distils_nothing(toy):
    distiller = build(toy)
    loss = distiller.loss(INPUTS, toy.samples(CARS, ignored_rows=20))['loss_distill']
    loss.backward()
    assert loss.item() == 0


def test_gradient_of_total_loss_equals_hand_computed_one(toy):
    weight = 0.3
    distiller = without_dropout(build(toy, weight=weight))
    samples = toy.samples(CARS)
    total, _ = distiller.parse_losses(distiller.loss(INPUTS, samples))
    total.backward()

    student = without_dropout(build_detector(toy.config()))
    files = toy.checkpoints(*THREE)
    student.load_state_dict(torch.load(files['student'])['state_dict'])
    student.train()
    raw = student(INPUTS, mode='tensor')
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    cross_entropy = F.cross_entropy(F.interpolate(raw, size=(20, 20), mode='bilinear'), labels)
    taught = torch.cat(
        [
            detector_from(files[n], toy.config())(INPUTS[i : i + 1], mode='tensor')
            for i, n in enumerate(('small', 'medium', 'large', 'small'))
        ]
    )
    (cross_entropy + weight * ((raw - taught.detach()) ** 2).sum() / raw.numel()).backward()

    expected = dict(student.named_parameters())
    for name, parameter in distiller.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6, msg=name
        )


def test_gradient_changes_with_the_distillation_weight(toy):
    gradients = []
    for weight in (0.0, 1.0):
        distiller = without_dropout(build(toy, weight=weight))
        distiller.parse_losses(distiller.loss(INPUTS, toy.samples(CARS)))[0].backward()
        gradients.append(distiller.backbone.conv.weight.grad.clone())
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ('thresholds', 'names', 'expected'),
    [
        ((0.1,), ('small', 'large'), ['small', 'small', 'large', 'small']),
        ((0.05, 0.2), ('small', 'medium', 'large'), ['small', 'medium', 'large', 'small']),
        (
            (0.02, 0.05, 0.3),
            ('range0', 'range1', 'range2', 'range3'),
            ['range0', 'range2', 'range3', 'range1'],
        ),
    ],
)
def test_two_three_and_four_ranges(toy, thresholds, names, expected):
    distiller = without_dropout(build(toy, names=('student', *names), thresholds=thresholds)).eval()
    samples = toy.samples(CARS)
    assert [names[i] for i in distiller.ranges(samples)] == expected
    student = distiller.student(INPUTS, mode='tensor')
    taught = torch.cat(
        [
            distiller.teachers[name](INPUTS[i : i + 1], mode='tensor')
            for i, name in enumerate(expected)
        ]
    )
    torch.testing.assert_close(
        distiller.loss(INPUTS, samples)['loss_distill'], F.mse_loss(student, taught)
    )


def test_teacher_of_another_architecture_is_resized_and_compared_by_margin(toy):
    other = toy.config(stride=4, channels=12, out_channels=1)
    distiller = without_dropout(build(toy, configs={'medium': other})).eval()
    samples = toy.samples([0.1, 0.1])
    loss = distiller.loss(INPUTS[:2], samples)['loss_distill']
    student = distiller.student(INPUTS[:2], mode='tensor')  # (2, 2, 10, 10)
    teacher = distiller.teachers['medium'](INPUTS[:2], mode='tensor')  # (2, 1, 5, 5)
    assert (student.shape, teacher.shape) == ((2, 2, 10, 10), (2, 1, 5, 5))
    margin = student[:, 1:] - student[:, :1]
    torch.testing.assert_close(
        loss, F.mse_loss(margin, F.interpolate(teacher, size=(10, 10), mode='bilinear'))
    )


def test_batch_with_teachers_of_different_architectures_weighs_every_image_the_same(toy):
    other = toy.config(stride=4, channels=12)
    distiller = without_dropout(build(toy, configs={'medium': other})).eval()
    student = distiller.student(INPUTS, mode='tensor')
    terms = []
    for i, name in enumerate(('small', 'medium', 'large', 'small')):
        teacher = distiller.teachers[name](INPUTS[i : i + 1], mode='tensor')
        terms.append(
            F.mse_loss(student[i : i + 1], F.interpolate(teacher, size=(10, 10), mode='bilinear'))
        )
    torch.testing.assert_close(
        distiller.loss(INPUTS, toy.samples(CARS))['loss_distill'], torch.stack(terms).mean()
    )


def test_one_channel_heads_compare_raw(toy):
    config = toy.config(out_channels=1)
    distiller = without_dropout(build(toy, config=config)).eval()
    student = distiller.student(INPUTS[:1], mode='tensor')
    teacher = distiller.teachers['large'](INPUTS[:1], mode='tensor')
    assert student.shape[1] == 1
    torch.testing.assert_close(
        distiller.loss(INPUTS[:1], toy.samples([0.9]))['loss_distill'], F.mse_loss(student, teacher)
    )


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize('measures', ['teacher', 'student'])
def test_distances_meet_log_odds_where_both_decide(toy, channels, measures):
    """STANet's change map says change above a distance of 1, all others' above log-odds of 0."""
    one, other = toy.config(out_channels=1), toy.config(out_channels=channels)
    student, teacher = (other, one) if measures == 'teacher' else (one, other)
    built = build(toy, config=student, configs=dict.fromkeys(('small', 'medium', 'large'), teacher))
    distiller = without_dropout(built).eval()
    inputs, samples = INPUTS[:1], toy.samples([0.9])
    heads = dict(teacher=distiller.teachers['large'], student=distiller)
    heads[measures].decode_head.distance_threshold = 1.5

    def margin(detector):
        maps = detector(inputs, mode='tensor')
        return maps[:, -1:] - (maps[:, :1] if maps.shape[1] == 2 else 0)

    above = {name: margin(detector) - 1.5 * (name == measures) for name, detector in heads.items()}
    torch.testing.assert_close(
        distiller.loss(inputs, samples)['loss_distill'],
        F.mse_loss(above['student'], above['teacher']),
    )


def test_heads_that_return_two_maps_compare_map_by_map(toy):
    config = toy.config(head='TwoMapsHead', out_channels=1)
    distiller = without_dropout(build(toy, config=config)).eval()
    losses = distiller.loss(INPUTS[:1], toy.samples([0.9]))
    student = distiller.student(INPUTS[:1], mode='tensor')
    teacher = distiller.teachers['large'](INPUTS[:1], mode='tensor')
    assert isinstance(student, tuple)
    torch.testing.assert_close(
        losses['loss_distill'], F.mse_loss(torch.cat(student), torch.cat(teacher))
    )
    assert 'decode.map1.loss_ce' in losses


def test_teacher_with_two_maps_teaches_their_mean(toy):
    distiller = without_dropout(
        build(toy, configs={'large': toy.config(head='TwoMapsHead', out_channels=1)})
    ).eval()
    student = distiller.student(INPUTS[:1], mode='tensor')
    first, second = distiller.teachers['large'](INPUTS[:1], mode='tensor')
    expected = F.mse_loss(student[:, 1:] - student[:, :1], (first + second) / 2)
    torch.testing.assert_close(
        distiller.loss(INPUTS[:1], toy.samples([0.9]))['loss_distill'], expected
    )


def test_to_its_surroundings_the_distiller_is_the_student(toy):
    distiller = build(toy)
    plain = build_detector(toy.config())
    assert list(distiller.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in distiller.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    assert distiller.num_classes == plain.num_classes
    assert not distiller.with_auxiliary_head
    with pytest.raises(AttributeError, match='no_such_thing'):
        distiller.no_such_thing  # noqa: B018


def test_optimiser_sees_the_students_parameters_alone(toy):
    constructor = DefaultOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0)),
        dict(custom_keys={'decode_head': dict(lr_mult=10)}),
    )

    def groups(module):
        return [
            (group['lr'], [parameter.shape for parameter in group['params']])
            for group in constructor(module).param_groups
        ]

    assert groups(build(toy)) == groups(build_detector(toy.config()))


def test_device_and_precision_moves_reach_the_teachers(toy):
    distiller = build(toy).double()
    assert all(
        parameter.dtype == torch.float64
        for teacher in distiller.teachers.values()
        for parameter in teacher.parameters()
    )
    assert distiller.backbone.conv.weight.dtype == torch.float64


def test_deep_copy_is_independent_and_keeps_the_shared_tree(toy):
    distiller = build(toy)
    clone = copy.deepcopy(distiller)
    with torch.no_grad():
        clone.student.backbone.conv.weight.zero_()
    assert clone.state_dict()['backbone.conv.weight'].abs().sum() == 0
    assert distiller.state_dict()['backbone.conv.weight'].abs().sum() > 0


def test_pickled_distiller_comes_back_whole(toy):
    distiller = without_dropout(build(toy)).eval()
    again = pickle.loads(pickle.dumps(distiller))
    assert isinstance(again, MultiTeacherDistiller)
    samples = toy.samples(CARS)
    expected = distiller.loss(INPUTS, samples)['loss_distill']
    assert torch.equal(again.loss(INPUTS, samples)['loss_distill'], expected)
    again.teachers['small'].backbone.conv.weight.zero_()
    assert torch.equal(distiller.loss(INPUTS, samples)['loss_distill'], expected)


def test_moving_average_holds_the_students_weights_alone(toy):
    distiller = build(toy)
    average = ExponentialMovingAverage(distiller, momentum=0.5)
    keys = {key.removeprefix('module.') for key in average.state_dict()} - {'steps'}
    assert keys == set(build_detector(toy.config()).state_dict())
    start = distiller.backbone.conv.weight.detach().clone()
    average.update_parameters(distiller)  # the first update copies
    with torch.no_grad():
        distiller.backbone.conv.weight.add_(1)
    average.update_parameters(distiller)
    torch.testing.assert_close(average.module.backbone.conv.weight, start + 0.5)


def test_the_students_class_stays_as_it_was(toy):
    distiller = build(toy)
    plain = build_detector(toy.config())
    assert isinstance(distiller, type(plain))
    assert type(distiller) is not type(plain)
    assert 'loss_distill' not in plain.loss(INPUTS, toy.samples(CARS))
    assert not isinstance(plain, MultiTeacherDistiller)


def test_modules_are_copied_so_that_no_two_roles_share_one(toy):
    """Given as a module, the student used to be all of its own teachers, and froze with them."""
    module = build_detector(toy.config())
    distiller = MODELS.build(dict(type='MultiTeacherDistiller', student=module))
    detectors = [module, distiller, *distiller.teachers.values()]
    assert len({id(detector.backbone.conv.weight) for detector in detectors}) == 5
    assert all(torch.equal(d.backbone.conv.weight, module.backbone.conv.weight) for d in detectors)
    assert all(p.requires_grad for p in (*module.parameters(), *distiller.parameters()))
    assert not isinstance(module, MultiTeacherDistiller)


def test_logged_mse_is_unweighted_and_not_trained_on(toy):
    distiller = build(toy, weight=1e-6)
    losses = distiller.loss(INPUTS, toy.samples(CARS))
    assert losses['loss_distill'].item() == pytest.approx(1e-6 * losses['mse_distill'].item())
    total, _ = distiller.parse_losses(losses)
    assert total.item() == pytest.approx(losses['decode.loss_ce'].item(), rel=1e-4)
    assert not losses['mse_distill'].requires_grad


@pytest.mark.parametrize('entry', ['seg_logits', 'binary'])
def test_semantic_student_distils_its_binary_map(toy, entry):
    config = toy.config(head='SemanticHead', head_kwargs=dict(binary=entry))
    distiller = without_dropout(build(toy, config=config, change_map=entry)).eval()
    samples = toy.samples([0.01, 0.9], stored=False, ignored_rows=10)
    loss = distiller.loss(INPUTS[:2], samples)['loss_distill']
    assert (samples[0].gt_sem_seg.data == 1).all()  # edited by the student, after the choice
    student = distiller(INPUTS[:2], mode='tensor')[entry]
    taught = [
        distiller.teachers[name](INPUTS[i : i + 1], mode='tensor')[entry]
        for i, name in enumerate(('small', 'large'))
    ]
    torch.testing.assert_close(loss, F.mse_loss(student[:, :, :5], torch.cat(taught)[:, :, :5]))


def test_semantic_head_without_the_named_map_lists_its_maps(toy):
    config = toy.config(head='SemanticHead', head_kwargs=dict(binary='binary'))
    with pytest.raises(UserError, match=r"without 'seg_logits'.*'seg_logits_from', 'binary'"):
        build(toy, config=config).loss(INPUTS, toy.samples(CARS))


def test_prediction_is_the_students_and_needs_no_checkpoint(toy):
    distiller = MODELS.build(
        dict(
            type='MultiTeacherDistiller',
            student=toy.config(),
            checkpoints=dict.fromkeys(THREE, 'absent.pth'),
        )
    ).eval()
    samples = distiller(INPUTS, toy.samples(CARS), mode='predict')
    expected = distiller.student.predict(INPUTS, toy.samples(CARS))
    for sample, reference in zip(samples, expected):
        assert torch.equal(sample.pred_sem_seg.data, reference.pred_sem_seg.data)
    assert distiller.distillation.teachers.detectors is None


def test_automatic_mixed_precision_trains(toy):
    distiller = build(toy)
    optim = OptimWrapper(torch.optim.SGD(distiller.parameters(), lr=0.1))
    before = distiller.backbone.conv.weight.clone()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = distiller.loss(INPUTS, toy.samples(CARS))
    assert losses['loss_distill'].dtype == torch.float32
    full = distiller.loss(INPUTS, toy.samples(CARS))['loss_distill']
    assert losses['loss_distill'].item() == pytest.approx(full.item(), rel=0.3)
    optim.update_params(distiller.parse_losses(losses)[0])
    assert torch.isfinite(distiller.backbone.conv.weight).all()
    assert not torch.equal(distiller.backbone.conv.weight, before)


@pytest.mark.parametrize(
    ('scope', 'prefix', 'inner'),
    [('mtkd_cd', 'toycd.', ''), ('toycd', '', ''), ('mmseg', 'toycd.', 'toycd.')],
)
def test_student_of_a_foreign_scope(toy, scope, prefix, inner):
    with DefaultScope.overwrite_default_scope(scope):
        distiller = MODELS.build(
            dict(
                type='mtkd_cd.MultiTeacherDistiller',
                student=toy.config(scope=prefix, inner=inner),
                checkpoints=toy.checkpoints(*THREE),
                distill_loss=dict(type='mtkd_cd.ChangeMapMSELoss', loss_weight=1.0),
            )
        )
        distiller.init_weights()
    assert type(distiller.student).__module__ == 'toycd.models'
    assert distiller.loss(INPUTS, toy.samples(CARS))['loss_distill'] > 0


def test_default_loss_builds_under_a_foreign_default_scope(toy):
    with DefaultScope.overwrite_default_scope('toycd'):
        assert isinstance(
            MODELS.build(dict(type='mtkd_cd.MultiTeacherDistiller', student=toy.config(scope=''))),
            MultiTeacherDistiller,
        )


def test_missing_teacher_names_the_command_that_makes_it(toy):
    files = toy.checkpoints(*THREE)
    files['medium'] = 'work_dirs/partition/fc_ef/medium/best.pth'
    distiller = MODELS.build(
        dict(type='MultiTeacherDistiller', student=toy.config(), checkpoints=files)
    )
    with pytest.raises(
        UserError,
        match=r'work_dirs/partition/fc_ef/medium/best.pth.*'
        r'mtkd-cd train configs/partition/fc_ef.py --range medium',
    ):
        distiller.init_weights()


def test_corrupt_teacher_is_named(toy):
    files = toy.checkpoints(*THREE)
    with open(files['large'], 'r+b') as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r'large.pth cannot be read.*truncated'):
        MODELS.build(
            dict(type='MultiTeacherDistiller', student=toy.config(), checkpoints=files)
        ).init_weights()


def test_checkpoint_of_another_model_lists_keys(toy):
    files = toy.checkpoints(*THREE, configs={'small': toy.config(channels=16)})
    with pytest.raises(
        UserError,
        match=r'small.pth is of another model.*backbone.conv.weight \(16, 6, 3, 3\) in the file',
    ):
        MODELS.build(
            dict(type='MultiTeacherDistiller', student=toy.config(), checkpoints=files)
        ).init_weights()


def test_pickle_with_code_is_refused(toy, tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, (f'open({str(tmp_path / "ran")!r}, "w")',)

    files = toy.checkpoints(*THREE)
    torch.save(dict(state_dict={}, extra=Payload()), files['small'])
    with pytest.raises(UserError, match=r'small.pth holds pickled objects.*--trust-checkpoint'):
        MODELS.build(
            dict(type='MultiTeacherDistiller', student=toy.config(), checkpoints=files)
        ).init_weights()
    with open(files['small'], 'wb') as file:
        pickle.dump(Payload(), file)
    with pytest.raises(UserError, match=r'small\.pth'):
        MODELS.build(
            dict(type='MultiTeacherDistiller', student=toy.config(), checkpoints=files)
        ).init_weights()
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(thresholds=(0.2, 0.05)), r'\(0.2, 0.05\).*increasing'),
        (dict(checkpoints=dict(student='a', small='b', large='c')), 'missing: medium'),
        (dict(checkpoints=dict.fromkeys((*THREE, 'huge'), 'a')), 'unknown: huge'),
        (dict(teachers=dict(tiny={})), "unknown CAR range 'tiny'.*small, medium, large"),
        (dict(names=('origin', 'medium', 'large')), "'origin' means another detector"),
        (dict(names=('small', 'medium@1', 'large')), "'medium@1' means another detector"),
        (dict(car_source='label'), "car_source='label'.*'auto', 'stored', 'augmented'"),
        (dict(compat='mmseg'), "compat='mmseg'"),
    ],
)
def test_bad_arguments_are_refused(toy, wrong, message):
    with pytest.raises(UserError, match=message):
        MODELS.build(dict(type='MultiTeacherDistiller', student=toy.config(), **wrong))


def test_teachers_in_bfloat16_teach_a_float32_student(toy, convolved):
    exact, rounded = (
        without_dropout(build(toy, teacher_options=options))
        for options in ({}, dict(precision='bfloat16'))
    )
    wanted = exact.loss(INPUTS, toy.samples(CARS))
    assert convolved == {torch.float32}
    found = rounded.loss(INPUTS, toy.samples(CARS))
    assert convolved == {torch.float32, torch.bfloat16}
    assert torch.equal(found['decode.loss_ce'], wanted['decode.loss_ce'])
    assert found['loss_distill'].dtype == torch.float32
    assert found['loss_distill'] != wanted['loss_distill']
    torch.testing.assert_close(found['loss_distill'], wanted['loss_distill'], rtol=0.02, atol=0)
    # Autocast does not reach teachers that are asked together.
    options = dict(teacher_options=dict(precision='bfloat16'))
    auto = without_dropout(build(toy, teacher_batching='auto', **options))
    assert torch.equal(auto.loss(INPUTS, toy.samples(CARS))['loss_distill'], found['loss_distill'])
    stacked = build(toy, teacher_batching='stacked', **options)
    with pytest.raises(UserError, match=r"cannot be asked together.*Take 'grouped'"):
        stacked.loss(INPUTS, toy.samples(CARS))
