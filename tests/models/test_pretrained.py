"""Pretrained weights: found in torch hub's cache, downloaded, or one error that says what to do."""

import functools
import hashlib
import http.server
import threading

import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.models import pretrained


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Torch hub's folder of downloaded checkpoints, empty."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    return tmp_path / 'hub' / 'checkpoints'


@pytest.fixture
def weights(build_model):
    """What a MiT-b0 checkpoint holds."""
    torch.manual_seed(1)
    return build_model('changeformer_mitb0').backbone.state_dict()


@pytest.fixture
def said(monkeypatch):
    """What goes to the log."""
    lines = []
    monkeypatch.setattr(pretrained, 'print_log', lambda line, *_: lines.append(line))
    return lines


@pytest.fixture
def served_url(tmp_path, weights):
    """URL of a checkpoint on a local server."""
    torch.save(weights, tmp_path / 'mit.pth')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/mit.pth'
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('name', ['changer_mitb0', 'changeformer_mitb0'])
def test_cached_file_is_loaded_without_a_network(name, cache, weights, build_model):
    torch.save(weights, cache / 'mit.pth')
    model = build_model(name, pretrained='https://nowhere.invalid/mit.pth')
    model.init_weights()
    for key, value in weights.items():
        assert torch.equal(model.backbone.state_dict()[key], value), key


def test_missing_file_is_downloaded_into_the_cache(cache, weights, served_url, build_model):
    model = build_model('changeformer_mitb0', pretrained=served_url)
    model.init_weights()
    assert (cache / 'mit.pth').is_file()
    assert torch.equal(
        model.backbone.state_dict()['layers.0.2.weight'], weights['layers.0.2.weight']
    )
    assert torch.equal(
        model.backbone.layers[0][0].projection.weight, weights['layers.0.0.projection.weight']
    )


def test_without_network_the_error_says_where_to_put_the_file_and_how_to_do_without(
    cache, build_model
):
    url = 'http://127.0.0.1:9/mit_b0.pth'
    with pytest.raises(UserError) as error:
        build_model('changer_mitb0', pretrained=url).init_weights()
    for words in (url, str(cache / 'mit_b0.pth'), '--cfg-options model.pretrained=None'):
        assert words in str(error.value)


def test_file_with_another_digest_than_its_name_says_is_not_used(
    cache, served_url, tmp_path, build_model
):
    (tmp_path / 'mit.pth').rename(tmp_path / 'mit-0123abcd.pth')
    with pytest.raises(UserError, match='hash'):
        build_model(
            'changer_mitb0', pretrained=served_url.replace('mit.pth', 'mit-0123abcd.pth')
        ).init_weights()
    assert not list(cache.glob('*.pth'))


def test_file_with_the_digest_that_its_name_says_is_used_and_the_log_says_that_it_was_checked(
    cache, served_url, weights, tmp_path, build_model, said
):
    digest = hashlib.sha256((tmp_path / 'mit.pth').read_bytes()).hexdigest()[:8]
    (tmp_path / 'mit.pth').rename(tmp_path / f'mit-{digest}.pth')
    model = build_model(
        'changer_mitb0', pretrained=served_url.replace('mit.pth', f'mit-{digest}.pth')
    )
    model.init_weights()
    assert torch.equal(
        model.backbone.layers[0][0].projection.weight, weights['layers.0.0.projection.weight']
    )
    assert [path.name for path in cache.iterdir()] == [f'mit-{digest}.pth']
    assert f'checked against the {digest} in its name' in said[0]


def test_download_of_a_file_without_a_digest_says_that_it_is_not_checked(
    cache, served_url, build_model, said
):
    build_model('changer_mitb0', pretrained=served_url).init_weights()
    assert 'not checked: its name holds no digest' in said[0]


def test_second_model_downloads_nothing(cache, served_url, build_model, monkeypatch):
    build_model('changer_mitb0', pretrained=served_url).init_weights()
    monkeypatch.delattr(torch.hub, 'download_url_to_file')
    build_model('changeformer_mitb0', pretrained=served_url).init_weights()


def test_mirror_is_asked_where_the_first_host_does_not_answer(
    cache, served_url, build_model, monkeypatch
):
    host = served_url.removesuffix('mit.pth')
    monkeypatch.setattr(pretrained, '_MIRRORS', {'http://127.0.0.1:9/': host})
    build_model('changer_mitb0', pretrained='http://127.0.0.1:9/mit.pth').init_weights()
    assert (cache / 'mit.pth').is_file()


def test_name_of_mmengines_hub_is_its_file(cache, served_url, build_model, monkeypatch):
    monkeypatch.setattr(pretrained, 'get_external_models', lambda: dict(mit_b0=served_url))
    build_model('changer_mitb0', pretrained='open-mmlab://mit_b0').init_weights()
    assert (cache / 'mit.pth').is_file()


def test_unknown_name_of_mmengines_hub_is_answered_with_a_similar_one(build_model):
    with pytest.raises(
        UserError, match=r'open-mmlab://resnet18v1c of model\.backbone.*resnet18_v1c'
    ):
        build_model('bit_r18', pretrained='open-mmlab://resnet18v1c').init_weights()


def test_missing_local_file_names_the_option_that_does_without(tmp_path, build_model):
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'no.pth'))
    with pytest.raises(UserError, match=r'no\.pth.*model\.backbone\.init_cfg=None'):
        build_model('changer_mitb0', backbone=dict(init_cfg=init_cfg)).init_weights()


def test_truncated_download_is_refused_by_name(cache, weights, build_model):
    torch.save(weights, cache / 'mit.pth')
    (cache / 'mit.pth').write_bytes((cache / 'mit.pth').read_bytes()[:5000])
    with pytest.raises(UserError, match=r'mit\.pth.*truncated'):
        build_model('changer_mitb0', pretrained='https://nowhere.invalid/mit.pth').init_weights()
