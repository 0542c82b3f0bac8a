"""Forms of the app."""

from django import forms

from core.tasks import OFFERS


class RunForm(forms.Form):
    """Which task to run, and on what text."""

    text = forms.CharField(max_length=500)
    offer = forms.ChoiceField(choices=[(key, offer.label) for key, offer in OFFERS.items()])
