"""Numbers as tables show them."""


def number_text(value: float, form: str) -> str:
    """Return a number as `form` writes it, but a zero without a sign.

    Args:
        value: the number.
        form: a format string, such as "{:,.1f}".

    Example:
        >>> number_text(-1234.5, "{:,.1f}"), number_text(-0.04, "{:,.1f}")
        ('-1,234.5', '0.0')
    """
    text = form.format(value)
    return text if text.strip("-0.%") else text.removeprefix("-")
