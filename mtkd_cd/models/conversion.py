"""Weights published in other layouts, rewritten in the names of the models here: CLIP,
segment-anything, the authors' own TinyCD."""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import check_not_read, own_file

Weights = dict[str, Any]


def _from_tinycd(weights: Weights) -> dict[str, Any]:
    # The WHU-CD file has the block that mixes the coarsest maps one level deeper than the LEVIR-CD
    # file.
    renamed = {
        f'backbone.{key}'.replace('_mixing_mask.2._mixing.', '_mixing_mask.2.'): value
        for key, value in weights.items()
    }
    return dict(state_dict=renamed)


def _from_clip(weights: Weights) -> dict[str, Any]:
    from mtkd_cd.models.backbones.vit import clip_weights

    encoder = {
        key: value.float()
        for key, value in clip_weights(weights).items()
        if key != 'proj' and not key.startswith('ln_post.')
    }
    return {
        f'image_encoder.{key}': value for key, value in encoder.items()
    }  # flat, as Open-CD's BAN wants it


def _from_sam(weights: Weights) -> dict[str, Any]:
    from mtkd_cd.models.backbones.vit_sam import sam_weights

    return dict(
        state_dict={f'backbone.{key}': value for key, value in sam_weights(weights).items()}
    )


class PublishedLayout(NamedTuple):
    """A foreign layout.

    Attributes:
        title: What the files are.
        signature: Keys by which such files are recognised.
        convert: Their tensors to what our file holds.
        use: How to use our file, with ``{path}`` for it.
        options: Config entries that the file needs, beside those of the config in ``use``.
        backbone: Type of the detector's backbone, of a whole detector.
    """

    title: str
    signature: tuple[str, ...]
    convert: Callable[[Weights], dict[str, Any]]
    use: str
    options: Mapping[str, Any] = MappingProxyType({})
    backbone: str = ''


_TINYCD_OPTIONS = MappingProxyType(
    {'model.backbone.classifier_channels': [16, 8], 'model.backbone.classifier_act': False}
)

LAYOUTS = {
    'tinycd': PublishedLayout(
        "the TinyCD authors' checkpoint",
        ('_classify._linears.2.0.weight', '_first_mix._mixing._convmix.0.weight'),
        _from_tinycd,
        'mtkd-cd test configs/origin/tinycd.py {path} --data-root LEVIR-CD-256 '
        '--cfg-options '
        + ' '.join(f'{key}={value}'.replace(' ', '') for key, value in _TINYCD_OPTIONS.items()),
        _TINYCD_OPTIONS,
        'TinyCD',
    ),
    'clip': PublishedLayout(
        "OpenAI's CLIP with a vision transformer",
        ('visual.conv1.weight', 'visual.transformer.resblocks.0.ln_1.weight'),
        _from_clip,
        'mtkd-cd train configs/origin/ban_vitl14_mitb2.py --cfg-options model.pretrained={path}',
    ),
    'sam': PublishedLayout(
        'segment-anything',
        ('image_encoder.patch_embed.proj.weight', 'image_encoder.blocks.0.norm1.weight'),
        _from_sam,
        'mtkd-cd train configs/origin/ttp_vitsam_l.py --cfg-options model.pretrained={path}',
    ),
}


def published_layout(weights: Mapping[str, Any]) -> PublishedLayout | None:
    """The layout of a published detector that these tensors are in, if they are in one."""
    found = LAYOUTS['tinycd']
    return found if all(key in weights for key in found.signature) else None


def convert_weights(
    source: str | os.PathLike, destination: str | os.PathLike, layout: str | None = None
) -> str:
    """Rewrite a published file in the names of the models here. Nothing in it is run, and
    ``destination`` is written whole or not at all.

    Args:
        source: A file in one of the :data:`LAYOUTS`.
        destination: The file to write.
        layout: Which of them; None: found by the names of the tensors.

    Returns:
        The layout of ``source``.

    Raises:
        UserError: ``destination`` is ``source``, or a file that was not converted by this; a file
            that cannot be read or is in none of the layouts (or not in ``layout``),
            or an unknown ``layout``.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f'unknown layout {layout!r}: choose one of {", ".join(LAYOUTS)}')
    from mtkd_cd.core.checkpoint import read_weights, save_checkpoint

    weights = read_weights(source)
    candidates = {layout: LAYOUTS[layout]} if layout else LAYOUTS
    for name, candidate in candidates.items():
        if all(key in weights for key in candidate.signature):
            check_not_read(destination, [source])
            save_checkpoint(candidate.convert(weights), destination, own_file)
            return name
    known = '; '.join(
        f'{name}: {candidate.title}, with {" and ".join(candidate.signature)}'
        for name, candidate in candidates.items()
    )
    raise UserError(
        f'{source} cannot be converted: its tensors are {", ".join(list(weights)[:4])}, ... '
        f'({len(weights)}). Known: {known}'
    )
