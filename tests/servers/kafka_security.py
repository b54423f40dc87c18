"""What a Kafka broker needs to speak TLS alone and to ask for a password, and what a client needs to be let in: an authority of
the test's own, certificates for the broker and for a client, one user by PLAIN and by SCRAM."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

USER = "trainer"
PLAIN, SCRAM = "PLAIN", "SCRAM-SHA-512"


class SecurityUnavailable(Exception):
    """What is missing, in one line."""


@dataclass(frozen=True, slots=True)
class Security:
    """Files are made in `folder`, which exists; `password` is new each time."""

    folder: Path
    password: str = field(default_factory=lambda: f"S3cret-{secrets.token_hex(8)}")

    def __post_init__(self) -> None:
        if shutil.which("openssl") is None:
            raise SecurityUnavailable("certificates need openssl")
        self.make_authority("ca")
        for name in ("broker", "client"):
            self._make_certificate(name)
        parts = [(self.folder / f"broker.{part}").read_text() for part in ("key", "crt")]
        (self.folder / "broker.pem").write_text("".join(parts))

    def make_authority(self, name: str) -> Path:
        """The certificate of an authority that signs itself."""
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                      "-keyout", f"{name}.key", "-out", f"{name}.crt")  # fmt: skip
        return self.folder / f"{name}.crt"

    def broker_properties(self) -> dict[str, object]:
        """One listener, SASL_SSL, with both mechanisms; a client's certificate is asked for, and may be left out."""
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        user = f'username="{USER}" password="{self.password}"'
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.folder / "broker.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.folder / "ca.crt",
            "ssl.client.auth": "requested",
            "sasl.enabled.mechanisms": f"{PLAIN},{SCRAM}",
            "sasl.mechanism.inter.broker.protocol": PLAIN,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{plain} required {user} user_{USER}="{self.password}";',
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{scram} required;",
        }

    def scram_user(self) -> str:
        return f"{SCRAM}=[name={USER},password={self.password}]"

    def options(self, mechanism: str = SCRAM) -> dict[str, str]:
        """What [log.options] of a config says for a client to be let in."""
        return {
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.folder / "ca.crt"),
            "sasl_mechanism": mechanism,
            "sasl_plain_username": USER,
            "sasl_plain_password": self.password,
        }

    def client_certificate(self) -> dict[str, str]:
        return {"ssl_certfile": str(self.folder / "client.crt"), "ssl_keyfile": str(self.folder / "client.key")}

    def lock_client_key(self, password: str) -> None:
        """From now on the client's key asks for a password."""
        self._openssl("pkey", "-in", "client.key", "-out", "locked.key", "-aes256", "-passout", f"pass:{password}")
        (self.folder / "locked.key").replace(self.folder / "client.key")

    def _make_certificate(self, name: str) -> None:
        (self.folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self._openssl("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-extfile", f"{name}.ext", "-out", f"{name}.crt")  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60, check=True)
