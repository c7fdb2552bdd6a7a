"""Who may do what: Airflow's users, and Airflow's permissions on assets.

An event is to us what an asset event is to Airflow, whose ``POST /api/v2/assets/events`` asks for POST on assets; so
publishing asks for the same, and reading for GET.  Who may change assets (PUT) may also publish for others: FAB's role
User publishes as itself, and its role Op may name another sender.

(`is_authorized_custom_view` would have a name of its own, but Airflow's SimpleAuthManager lets every viewer do anything
with it.)
"""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import get_user, requires_access_asset
from fastapi import Depends

MAY_READ = Depends(requires_access_asset(method="GET"))
MAY_PUBLISH = Depends(requires_access_asset(method="POST"))
User = Annotated[BaseUser, Depends(get_user)]


def may_publish_for_others(user: BaseUser) -> bool:
    """Return whether the sender of what user publishes may be another than user."""
    return get_auth_manager().is_authorized_asset(method="PUT", user=user)
