"""Certificate authorities and certificates, made for one test; keys are of the curve P-256 unless given."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class Pair(NamedTuple):
    """A certificate and its private key, both PEM."""

    cert: Path
    key: Path


class Authority:
    """A CA with its certificate in `path`."""

    def __init__(self, directory: Path, name: str) -> None:
        """Make the CA's key and certificate."""
        self.path = directory / f"{name}.pem"
        self._directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        built = _begin(self._name, self._name, self._key, 30 * DAY).add_extension(constraints, critical=True)
        self.path.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, *hosts: str, valid: timedelta = DAY, key: Key | None = None) -> Pair:
        """Issue a certificate.

        Args:
            name: Of the subject and of the files.
            hosts: Names and IP addresses that it holds for.
            valid: How long from now; below 0: expired.
            key: Its private key; None: a new one.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        built = _begin(_name(name), self._name, key, valid)
        if hosts:
            alternative = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            built = built.add_extension(alternative, critical=False)
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        pair.cert.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        pair.key.chmod(0o600)
        return pair


def _begin(subject: x509.Name, issuer: x509.Name, key: Key, valid: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + valid)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)
