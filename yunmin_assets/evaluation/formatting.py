"""Numbers as a person reads them: 1,234; 12.3 MB; 4.2 s; −6.1 %."""

MINUS = "\N{MINUS SIGN}"
BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
MINUTE, HOUR = 60, 3600
FOUR_DIGITS, THREE_DIGITS = 1_000, 100


def count(number: int) -> str:
    """1234567 → 1,234,567."""
    return f"{number:,}"


def size(number: int) -> str:
    """Bytes in decimal units: 12345678 → 12.3 MB."""
    value = float(number)
    for unit in BYTE_UNITS:
        if value < 999.5 or unit == BYTE_UNITS[-1]:
            break
        value /= 1000
    if unit == "B":
        return f"{number:,} B"
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{decimals}f} {unit}"


def seconds(duration: float) -> str:
    """4.2 s, 3 min 20 s or 2 h 5 min."""
    if duration < 0.95:
        return f"{duration * 1000:.0f} ms"
    if duration < 59.95:
        return f"{duration:.1f} s"
    whole = round(duration)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    return f"{whole // HOUR:,} h {whole % HOUR // MINUTE} min"


def perplexity(value: float) -> str:
    """Four significant digits, thousands separated: 275.9, 12.34, 1,204."""
    if value >= FOUR_DIGITS:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= THREE_DIGITS else f"{value:.2f}"


def percent(share: float) -> str:
    """0.4213 → 42.1 %."""
    return f"{share:.1%}".replace("%", " %").replace("-", MINUS)


def signed_percent(share: float) -> str:
    """-0.061 → −6.1 %; what rounds to nothing is ±0.0 %."""
    if round(share, 3) == 0:
        return "±0.0 %"
    return f"{share:+.1%}".replace("%", " %").replace("-", MINUS)


def whole_percent(share: float) -> str:
    """-0.05 → −5 %, and one decimal only where it is needed: 0.025 → +2.5 %."""
    return f"{100 * share:+.3g} %".replace("-", MINUS) if round(share, 6) else "0 %"


def moment(created: str) -> str:
    """2025-11-21T22:30:00+09:00 → 2025-11-21 22:30 (+09:00)."""
    date, _, time = created.partition("T")
    zone = time[8:]
    return " ".join(part for part in (date, time[:5], f"({zone})" if zone else "") if part)


def p_value(value: float) -> str:
    """0.0004 → < 0.001."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def decimal(value: float) -> str:
    """Three digits after the point, with a true minus sign; none before what rounds to nothing."""
    return f"{value:z.3f}".replace("-", MINUS)
