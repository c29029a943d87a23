"""Pairs without labels: who teaches them, what they count, and that no supervised loss does."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS

RANGES = ('small', 'medium', 'large')
INPUTS = torch.randn(4, 6, 20, 20, generator=torch.Generator().manual_seed(1))
LABELLED = (0, 2)
CUTS = (0.3, 0.7)  # the toy origin predicts about half of an image


def build(toy, student=None, **kwargs):
    distiller = MODELS.build(
        dict(
            type='MultiTeacherDistiller',
            student=student or toy.config(),
            thresholds=CUTS,
            checkpoints=toy.checkpoints('student', *RANGES, config=student),
            distill_loss=dict(type='ChangeMapMSELoss'),
            **dict({'unlabelled': {}}, **kwargs),
        )
    )
    distiller.init_weights()
    return distiller.eval()


def mixed(toy, how='flag'):
    """Four samples, of which the second and the fourth have no label."""
    samples = toy.samples([0.9] * 4)
    for i in (1, 3):
        samples[i] = toy.samples([0.9], stored=False)[0]
        if how == 'flag':
            samples[i].set_metainfo(dict(unlabelled=True))
        elif how == 'missing':
            del samples[i].gt_sem_seg
        else:
            samples[i].gt_sem_seg = PixelData(data=torch.full((1, 20, 20), 255))
    return samples


@pytest.mark.parametrize('how', ['flag', 'missing', 'ignored'])
@pytest.mark.parametrize('confidence', ['probability', 0.6, None])
def test_loss_equals_that_of_the_cascades_choice_under_confidence(toy, how, confidence):
    distiller = build(toy, toy.config(stride=1), unlabelled=dict(weight=0.5, confidence=confidence))
    cascade = MODELS.build(
        dict(type='OriginPartitionCascade', origin=toy.config(stride=1), thresholds=CUTS)
    ).eval()
    cascade.origin.load_state_dict(distiller.teachers['origin'].state_dict())
    routed = [sample.metainfo['range'] for sample in cascade(INPUTS)]
    names = ['large' if i in LABELLED else routed[i] for i in range(4)]
    with torch.no_grad():
        teacher = torch.cat(
            [distiller.teachers[n](INPUTS[i : i + 1], mode='tensor') for i, n in enumerate(names)]
        )
    probability = teacher.softmax(1)[:, 1]
    certain = {
        'probability': (2 * probability - 1).abs(),
        0.6: ((probability >= 0.6) | (probability <= 0.4)).float(),
        None: torch.ones_like(probability),
    }[confidence]
    weight = 0.5 * certain
    weight[list(LABELLED)] = 1
    error = (distiller(INPUTS, mode='tensor') - teacher).square().mean(1)
    loss = distiller.loss(INPUTS, mixed(toy, how))['loss_distill']
    torch.testing.assert_close(loss, (error * weight).sum() / weight.sum())
    assert 'large' not in {routed[1], routed[3]}


LOSSES = {
    'mean over all pixels': dict(type='mmseg.CrossEntropyLoss'),
    'mean over valid pixels': dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
    'class weights': dict(type='mmseg.CrossEntropyLoss', class_weight=[1.0, 3.0]),
    'dice': dict(type='mtkd_cd.DiceLoss', use_sigmoid=False),
    'lovasz': dict(type='mmseg.LovaszLoss', reduction='none'),
}
ONE_CHANNEL = {
    'binary cross-entropy': dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True),
    'binary, valid pixels': dict(
        type='mmseg.CrossEntropyLoss', use_sigmoid=True, avg_non_ignore=True
    ),
    'one-channel dice': dict(type='mtkd_cd.DiceLoss'),
    'bcl': dict(type='mtkd_cd.BCLLoss', loss_name='loss_bcl'),
    'exact bcl': dict(type='mtkd_cd.BCLLoss', loss_name='loss_bcl', exact_means=True),
}


@pytest.mark.parametrize('name', [*LOSSES, *ONE_CHANNEL])
def test_supervised_losses_are_those_of_the_labelled_pairs_alone(toy, name):
    """A label that ignores every pixel would not do: Dice pulls such a pair to `no change`."""
    config = toy.config(out_channels=1 if name in ONE_CHANNEL else 2)
    config['decode_head']['loss_decode'] = {**LOSSES, **ONE_CHANNEL}[name]
    distiller = build(toy, config)
    losses = distiller.loss(INPUTS, mixed(toy))
    alone = distiller.loss(INPUTS[list(LABELLED)], [mixed(toy)[i] for i in LABELLED])
    own = [key for key in alone if 'loss' in key and key != 'loss_distill']
    assert own
    for key in own:
        torch.testing.assert_close(losses[key], alone[key])
    # A batch without any label: the same entries, 0, and gradients that are numbers.
    distiller.train()
    none = distiller.loss(INPUTS[[1, 3]], [mixed(toy)[i] for i in (1, 3)])
    assert set(none) == set(losses)
    assert all(none[key].sum() == 0 for key in own)
    distiller.parse_losses(none)[0].backward()
    gradients = [parameter.grad for parameter in distiller.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def test_change_maps_meet_their_own_images_after_the_two_forwards(toy):
    """Unlabelled pairs stand between labelled ones in the batch."""
    distiller = build(toy, routing='origin', unlabelled=dict(confidence=None))
    assert list(distiller.teachers) == ['origin']
    loss = distiller.loss(INPUTS, mixed(toy))['loss_distill']
    assert loss.item() == pytest.approx(0, abs=1e-10)  # the student is the origin still


def test_pair_without_label_is_refused_unless_asked_for(toy):
    distiller = build(toy, unlabelled=None)
    for how in ('flag', 'missing'):
        with pytest.raises(UserError, match=r'B/0.png.* has no label.*model\.unlabelled'):
            distiller.loss(INPUTS, mixed(toy, how))


def test_labelled_crop_without_a_valid_pixel_stays_with_its_own_teacher(toy):
    """Its stored CAR is known: it has a label, of which augmentation left nothing."""
    distiller = build(toy)
    samples = toy.samples([0.9, 0.9], ignored_rows=20)
    losses = distiller.loss(INPUTS[:2], samples)
    assert losses['loss_distill'] == 0
    assert F.relu(losses['decode.loss_ce']) == 0
