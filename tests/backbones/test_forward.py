from fedpeft.backbones.forward import bind_arguments

NAMES = ("input_ids", "attention_mask", "labels")


def test_positional_arguments_get_the_names_of_the_forward():
    assert bind_arguments(NAMES, (1, 2), {"labels": 3}) == {"input_ids": 1, "attention_mask": 2, "labels": 3}


def test_keywords_that_the_forward_does_not_name_are_kept():
    assert bind_arguments(NAMES, (1,), {"position_ids": 4}) == {"input_ids": 1, "position_ids": 4}


def test_arguments_that_are_none_or_false_are_left_out_and_zero_is_not():
    assert bind_arguments(NAMES, (None, 0), {"use_cache": False, "labels": None, "alpha": 0.0}) == {
        "attention_mask": 0,
        "alpha": 0.0,
    }
