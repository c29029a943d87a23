"""mmengine's local file backend with atomic writes."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mtkd_cd.core.files import atomic_write


class AtomicLocalBackend(LocalBackend):
    """``CheckpointHook(backend_args=dict(backend='atomic'))``.

    A run that is killed, or a disk that fills up, while a checkpoint is being saved leaves the
    previous checkpoint untouched.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        with atomic_write(filepath, 'wb') as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


register_backend('atomic', AtomicLocalBackend, force=True)
