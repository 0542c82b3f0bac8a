"""No addresses: of what has no web process."""

urlpatterns: list[object] = []
