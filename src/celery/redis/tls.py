"""TLS: from the options of redis-py, Celery and kombu to sockets that are encrypted. Certificates are verified."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from typing import Any

from celery.exceptions import ImproperlyConfigured
from celery.redis.replies import Refused
from celery.redis.wire import tls

logger = logging.getLogger(__name__)

NAMES = frozenset({
    "ca_certs", "ca_data", "ca_path", "cert_reqs", "certfile", "check_hostname", "ciphers", "exclude_verify_flags",
    "include_verify_flags", "keyfile", "min_version", "password",
})  # fmt: skip
"""What may follow `ssl_` in the name of an option."""
UNSUPPORTED = frozenset({
    "validate_ocsp", "validate_ocsp_stapled", "ocsp_context", "ocsp_expected_cert",
})  # fmt: skip
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def read_flag(name: str, value: Any) -> bool:
    """*value* as a bool, also if it is text. Raises `ImproperlyConfigured`."""
    if isinstance(value, str):
        if value.strip().lower() not in _FLAGS:
            raise ImproperlyConfigured(f"The Redis option {name} is {value!r}: give true or false.")
        return _FLAGS[value.strip().lower()]
    return bool(value)


class Tls:
    """How connections to one server are encrypted. *given*: options by name, with or without `ssl_` before it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        options = {name.removeprefix("ssl_"): value for name, value in given.items()}
        for name in options:
            if name in UNSUPPORTED:
                raise ImproperlyConfigured(
                    f"The Redis option ssl_{name} is not supported: certificates are checked without asking OCSP."
                )
            if name not in NAMES:
                known = ", ".join(f"ssl_{known}" for known in sorted(NAMES))
                raise ImproperlyConfigured(f"There is no Redis option ssl_{name}; known are {known}.")
        self._options = {name: value for name, value in options.items() if value is not None}
        self._require = _read_requirement(self._options.pop("cert_reqs", "required"))
        self._check = read_flag("ssl_check_hostname", self._options.pop("check_hostname", True))
        self._context: Any = None
        self._warned = self._require != "CERT_NONE"

    def wrap(self, connected: socket.socket, host: str, deadline: float) -> socket.socket:
        """*connected* after the handshake; closed when that fails. Raises `Refused` or an OSError."""
        ssl = tls()
        try:
            if self._context is None:
                self._context = self._make_context(ssl)
            connected.settimeout(max(0.001, deadline - time.monotonic()))
            wrapped: socket.socket = self._context.wrap_socket(connected, server_hostname=host)
        except BaseException as error:
            connected.close()
            self._context = None  # files may be replaced until the next attempt
            if isinstance(error, ssl.SSLCertVerificationError):
                raise Refused(
                    f"its certificate is not to be trusted ({error.verify_message.rstrip('.')}); give ssl_ca_certs, the"
                    " file of the authority that signed it, or ssl_cert_reqs=none where that does not matter"
                ) from error
            if isinstance(error, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(error):
                raise Refused("it does not speak TLS on this port; write redis:// instead of rediss://") from error
            if isinstance(error, TimeoutError):
                raise TimeoutError("it does not answer as TLS does (write redis:// if this port does not)") from error
            raise
        return wrapped

    def _make_context(self, ssl: Any) -> Any:
        options = self._options
        if not self._warned:
            self._warned = True
            logger.warning(
                "Certificates of the Redis server are not verified (ssl_cert_reqs=none): whoever is between it and"
                " this process can read and change everything. Set ssl_cert_reqs=required and ssl_ca_certs."
            )
        try:
            context = ssl.create_default_context()
            context.check_hostname = self._check and self._require != "CERT_NONE"
            context.verify_mode = getattr(ssl, self._require)
            for flag in options.get("include_verify_flags", ()):
                context.verify_flags |= flag
            for flag in options.get("exclude_verify_flags", ()):
                context.verify_flags &= ~flag
            if "certfile" in options or "keyfile" in options:
                certificate = options.get("certfile") or options["keyfile"]
                context.load_cert_chain(certificate, options.get("keyfile"), options.get("password"))
            if options.keys() & {"ca_certs", "ca_path", "ca_data"}:
                context.load_verify_locations(options.get("ca_certs"), options.get("ca_path"), options.get("ca_data"))
            if "min_version" in options:
                context.minimum_version = _read_version(ssl, options["min_version"])
            if "ciphers" in options:
                context.set_ciphers(options["ciphers"])
        except (OSError, ValueError, TypeError) as error:
            files = [str(options[name]) for name in ("certfile", "keyfile", "ca_certs", "ca_path") if name in options]
            raise Refused(f"its TLS options cannot be used: {error} (files: {', '.join(files) or 'none'})") from error
        return context


def _read_requirement(value: Any) -> str:
    """The name in `ssl` of a requirement: Celery's and redis-py's spellings, and the values of `ssl` themselves."""
    names = {"0": "CERT_NONE", "1": "CERT_OPTIONAL", "2": "CERT_REQUIRED"}
    text = str(int(value)) if isinstance(value, int) else str(value).strip()
    name = names.get(text, text.upper().rpartition(".")[2])
    name = name if name.startswith("CERT_") else f"CERT_{name}"
    if name not in names.values():
        raise ImproperlyConfigured(f"The Redis option ssl_cert_reqs is {value!r}: give required, optional or none.")
    return name


def _read_version(ssl: Any, value: Any) -> Any:
    if isinstance(value, str) and not value.isdigit():
        return getattr(ssl.TLSVersion, value.replace(".", "_"))
    return ssl.TLSVersion(int(value))
