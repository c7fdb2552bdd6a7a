"""The Python API of AI Flow's ``notification-service`` 0.3.1; docs/notification.md says what differs.

``from notification_service.client import NotificationClient`` becomes
``from aiflow_ext.compat.notification_service.client import NotificationClient``, and so for ``base_notification``.
"""
