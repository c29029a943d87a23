from mmengine.runner import LogProcessor

from mtkd_cd.engine.log import SignificantLogProcessor


def line_of(monkeypatch, **values):
    """The line that follows from mmengine's own, which has four digits after the point."""
    text = '  '.join(f'{name}: {value:.4f}' for name, value in values.items())
    plain = (values, f'Iter(train) [1/4]  {text}')
    monkeypatch.setattr(LogProcessor, 'get_log_after_iter', lambda *_: plain)
    logged, line = SignificantLogProcessor(by_epoch=False).get_log_after_iter(None, 0, 'train')
    assert logged == values
    return line.removeprefix('Iter(train) [1/4]  ')


def test_small_numbers_keep_their_digits_and_others_are_written_as_ever(monkeypatch):
    line = line_of(monkeypatch, loss=0.6485, loss_distill=3.2146e-7, mse_distill=0.0032146)
    assert line == 'loss: 0.6485  loss_distill: 3.215e-07  mse_distill: 0.0032'


def test_nothing_is_still_zero(monkeypatch):
    assert line_of(monkeypatch, loss=0.5, loss_distill=0.0) == 'loss: 0.5000  loss_distill: 0.0000'
