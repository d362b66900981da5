from fedpeft.federation.reasons import describe_error, group_reasons


def test_an_error_is_told_by_its_type_in_one_short_line():
    assert describe_error(NameError("name 'x' is not defined")) == "NameError: name 'x' is not defined"
    text = describe_error(ValueError("a\n\x1b[31m" + 10_000 * "b"))
    assert len(text) <= 240 and text.isprintable() and text.startswith("ValueError: a \\x1b[31mb")


def test_each_reason_is_told_once_with_those_it_holds_for():
    reasons = {"d": "late", "a": "late", "b": "not finite", "c": "late", "e": "late", "f": "late"}
    assert group_reasons(reasons) == "a, c, d and 2 more: late; b: not finite"
    assert group_reasons({}) == ""
