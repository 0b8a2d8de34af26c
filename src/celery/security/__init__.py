"""Signed messages: `app.setup_security()`, with the settings `security_*`. Needs the extra `auth`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from celery.exceptions import ImproperlyConfigured
from celery.security.serialization import register_auth
from celery.security.utils import CRYPTOGRAPHY_NOT_INSTALLED, crypto

SECURITY_SETTING_MISSING = (
    "Signed messages need the settings security_key, security_certificate and security_cert_store: the key and the"
    " certificate of this program, and the certificates of those it believes."
)
SETTING_MISSING = (
    "Signed messages need task_serializer='auth', and accept_content=['auth']: there is no point in signing messages"
    " if those that are not signed are accepted."
)


def setup_security(
    allowed_serializers: Iterable[str] | None = None,
    key: str | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
    app: Any = None,
) -> None:
    """Sign messages, and have kombu refuse what is not signed. What is not given comes from the settings.

    Raises ImproperlyConfigured when something is missing.
    """
    app = app or import_module("celery._state").get_current_app()
    conf = app.conf
    crypto("exceptions")
    if conf.task_serializer != "auth" or conf.accept_content is None or list(conf.accept_content) != ["auth"]:
        raise ImproperlyConfigured(SETTING_MISSING)
    key = key or conf.security_key
    cert = cert or conf.security_certificate
    store = store or conf.security_cert_store
    if not (key and cert and store):
        raise ImproperlyConfigured(SECURITY_SETTING_MISSING)
    disable_untrusted_serializers(allowed_serializers)
    password = key_password or conf.security_key_password
    register_auth(key, password, cert, store, digest or conf.security_digest, serializer)


def disable_untrusted_serializers(whitelist: Iterable[str] | None = None) -> None:
    """Have kombu refuse every serializer but those of *whitelist*."""
    import_module("kombu.serialization").disable_insecure_serializers(allowed=list(whitelist or ()))


__all__ = [
    "CRYPTOGRAPHY_NOT_INSTALLED",
    "SECURITY_SETTING_MISSING",
    "SETTING_MISSING",
    "disable_untrusted_serializers",
    "setup_security",
]
