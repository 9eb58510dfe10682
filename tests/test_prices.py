"""A price is of the model that it names, and of its dated snapshots; of no other."""

import pytest

from turnlog.engine.prices import Price, Prices

PRICES = Prices({"gpt-4o": Price(2.5, 10.0), "gpt-4": Price(30.0, 60.0), "ft:gpt-4o": Price(3.75, 15.0)})


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gpt-4o", 2.5),
        ("gpt-4o-2024-08-06", 2.5),
        ("gpt-4o-20240806", 2.5),
        ("gpt-4o-latest", 2.5),
        ("gpt-4-0613", 30.0),
        ("ft:gpt-4o-2024-08-06:acme::x1", 3.75),
        ("ft:gpt-4o:acme:name:x1", 3.75),
        ("gpt-4o-mini", None),
        ("gpt-4o-mini-2024-07-18", None),
        ("gpt-4o-audio-preview", None),
        ("gpt-4o-2", None),
        ("gpt-4-turbo-2024-04-09", None),
        ("ft:gpt-4-0613:acme::x1", None),
        ("gpt", None),
    ],
)
def test_of_which_models_a_price_is(model, price):
    found = PRICES.of(model)
    assert (None if found is None else found.input) == price
