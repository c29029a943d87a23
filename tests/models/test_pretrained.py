"""Pretrained weights: found in torch hub's cache, downloaded, or one error that says what to do."""

import functools
import http.server
import threading

import pytest
import torch

from mtkd_cd.errors import UserError


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
    assert torch.equal(model.backbone.state_dict()['layers.0.2.weight'], weights['layers.0.2.weight'])
    assert torch.equal(model.backbone.layers[0][0].projection.weight, weights['layers.0.0.projection.weight'])


def test_without_network_the_error_says_where_to_put_the_file_and_how_to_do_without(cache, build_model):
    url = 'http://127.0.0.1:9/mit_b0.pth'
    with pytest.raises(UserError) as error:
        build_model('changer_mitb0', pretrained=url).init_weights()
    for words in (url, str(cache / 'mit_b0.pth'), '--cfg-options model.pretrained=None'):
        assert words in str(error.value)


def test_file_with_another_digest_than_its_name_says_is_not_used(cache, served_url, tmp_path, build_model):
    (tmp_path / 'mit.pth').rename(tmp_path / 'mit-0123abcd.pth')
    with pytest.raises(UserError, match='hash'):
        build_model('changer_mitb0', pretrained=served_url.replace('mit.pth', 'mit-0123abcd.pth')).init_weights()
    assert not list(cache.glob('*.pth'))


def test_missing_local_file_names_the_option_that_does_without(tmp_path, build_model):
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'no.pth'))
    with pytest.raises(UserError, match=r'no\.pth.*model\.backbone\.init_cfg=None'):
        build_model('changer_mitb0', backbone=dict(init_cfg=init_cfg)).init_weights()


def test_truncated_download_is_refused_by_name(cache, weights, build_model):
    torch.save(weights, cache / 'mit.pth')
    (cache / 'mit.pth').write_bytes((cache / 'mit.pth').read_bytes()[:5000])
    with pytest.raises(UserError, match=r'mit\.pth.*truncated'):
        build_model('changer_mitb0', pretrained='https://nowhere.invalid/mit.pth').init_weights()
