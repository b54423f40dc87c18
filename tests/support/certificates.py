"""An authority, and certificates of it, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """Writes `<name>.crt` and `<name>.key` into `folder`; its own certificate is `ca.crt`."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("certificates need openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._openssl("req", "-x509", *self._new("ca"), "-out", "ca.crt", "-days", "2", "-subj", "/CN=authority")

    @property
    def root(self) -> Path:
        return self.folder / "ca.crt"

    def certificate(self, name: str) -> tuple[Path, Path]:
        """For `name`, and for this machine."""
        self._openssl("req", *self._new(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self.folder / "names").write_text(f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1")
        self._openssl(
            "x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-extfile", "names", "-out", f"{name}.crt",
        )  # fmt: skip
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def _new(self, name: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, timeout=60, check=True)
