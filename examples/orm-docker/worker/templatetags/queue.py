"""Numbers and times as the page of the queue shows them."""

from datetime import datetime
from typing import Any
from urllib.parse import quote

from django import template
from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.translation import gettext

from worker.queue.depths import MOST
from worker.queue.page import ACTIONS

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))  #: symbols, which no language translates

register = template.Library()


@register.filter
def number(value: int | None) -> str:
    """Return a number with the separators of the language, also without USE_THOUSAND_SEPARATOR; "" if it is unknown."""
    return "" if value is None else str(number_format(value, use_l10n=True, force_grouping=True))


@register.filter
def counted(value: int) -> str:
    """Return a number of what is counted only so far."""
    return number(value) + "+" * (value >= MOST)


@register.filter
def span(seconds: float | None) -> str:
    """Return a time in its two largest units, "" if there is none."""
    if seconds is None:
        return ""
    left = max(round(seconds), 0)
    largest = next((place for place, (size, _) in enumerate(UNITS) if left >= size), len(UNITS) - 1)
    said = []
    for size, unit in UNITS[largest : largest + 2]:
        said.append(f"{left // size} {unit}")
        left %= size
    return " ".join(each for each in said if each[0] != "0") or said[0]


@register.filter
def ago(when: datetime | None) -> str:
    """Return how long ago a time was, or when it will be, with the time itself behind it; "" if there is none."""
    if when is None:
        return ""
    seconds = (timezone.now() - when).total_seconds()
    whole = abs(seconds) - (abs(seconds) % 60 if abs(seconds) >= 60 else 0)  # a minute says enough, and stands still
    return _with_time(when, (gettext("%s ago") if seconds > 0 else gettext("in %s")) % span(whole))


@register.filter
def lasting(since: datetime) -> str:
    """Return for how long something has lasted, with the time of its beginning behind it."""
    return _with_time(since, span((timezone.now() - since).total_seconds()))


@register.simple_tag
def act(name: str, *said: object, of: str = "") -> str:
    """Return the button of an action, with what it is said; `of` tells it from others of its kind."""
    action = ACTIONS[name]
    # Browsers would change lines that the name of a function may have.
    value = "/".join(quote(str(part), safe="", errors="replace") for part in said)
    spoken = f"{action.label} {of or said[0]}"
    more = (" danger" if action.destroys else "", f"{action.label} …" if action.question else action.label)
    button = '<button type="submit" name="{}" value="{}" aria-label="{}" class="action{}">{}</button>'
    return format_html(button, name, value, spoken, *more)


@register.simple_tag(takes_context=True)
def link(context: dict[str, Any], model: str, text: str, key: object = None) -> str:
    """Return a text that leads to a page of the admin, of all or of one, if its reader may see that page."""
    app, name = model.split(".")
    if not any(context["request"].user.has_perm(f"{app}.{may}_{name}") for may in ("view", "change")):
        return text
    kind, keys = ("changelist", []) if key is None else ("change", [key])
    return format_html('<a href="{}">{}</a>', reverse(f"admin:{app}_{name}_{kind}", args=keys), text)


def _with_time(when: datetime, words: str) -> str:
    at = timezone.localtime(when) if settings.USE_TZ else when
    exact = at.strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, words)
