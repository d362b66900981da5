"""What other modules rely on in the records of examples."""

from dataclasses import fields

from fedpeft.tasks.examples import SPLITS, ClientData


def test_splits_are_the_fields_of_a_client():
    assert [field.name for field in fields(ClientData)] == ["id", *SPLITS]
