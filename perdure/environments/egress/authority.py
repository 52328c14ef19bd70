"""A certificate authority of one session, by which its proxy may read what it puts a secret into.

Its key never leaves our memory but for the moment in which TLS reads a file of it that nobody else
can see; its certificate is trusted inside that session's sandbox only.
"""

import datetime as dt
import ipaddress
import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perdure.core.addresses import parse_address

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_LASTS: Final = dt.timedelta(days=30)
_BEFORE: Final = dt.timedelta(hours=1)
_KEPT: Final = 64
_BUNDLES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class CertificateAuthority:
    """Makes certificates for hosts. `now` is the wall clock, in microseconds."""

    def __init__(self, now_us: int) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._now = dt.datetime.fromtimestamp(now_us / 1e6, dt.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._made("Perdure egress of one session", self._key, ca=True)
        self._contexts: dict[str, ssl.SSLContext] = {}

    @property
    def pem(self) -> bytes:
        """The certificate of the authority."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self._certificate.public_bytes(Encoding.PEM)

    def context(self, host: str) -> ssl.SSLContext:
        """Return how we are `host` towards the sandbox."""
        if host not in self._contexts:
            if len(self._contexts) >= _KEPT:
                self._contexts.clear()
            self._contexts[host] = self._context(host)
        return self._contexts[host]

    def _context(self, host: str) -> ssl.SSLContext:
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        made = self._made(host, key, ca=False).public_bytes(form.Encoding.PEM)
        private = key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        with tempfile.TemporaryDirectory(prefix="perdure-egress-") as folder:  # mode 0700
            file = Path(folder) / "pair.pem"
            file.touch(mode=0o600)
            file.write_bytes(private + made + self.pem)
            context.load_cert_chain(file)
        return context

    def _made(self, name: str, key: "EllipticCurvePrivateKey", *, ca: bool) -> "x509.Certificate":
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import NameOID

        issuer = "Perdure egress of one session"
        common = name if len(name) <= 64 else "a host"
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (common, issuer)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(int.from_bytes(os.urandom(16)) >> 1)
            .not_valid_before(self._now - _BEFORE)
            .not_valid_after(self._now + _LASTS)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
        )
        if ca:
            builder = builder.add_extension(_usage(), True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(name)]), False)
        return builder.sign(self._key, hashes.SHA256())


def system_bundle() -> bytes:
    """Return the certificates that this machine trusts, or b""."""
    paths = ssl.get_default_verify_paths()
    for place in (paths.cafile, *_BUNDLES):
        if place and Path(place).is_file():
            return Path(place).read_bytes()
    return b""


def _usage() -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(host: str) -> "x509.GeneralName":
    from cryptography import x509

    found = parse_address(host)
    return x509.IPAddress(ipaddress.ip_address(str(found))) if found else x509.DNSName(host)
