"""Addresses and numbers that are private, found by their form and checksum. Pure functions."""

import ipaddress
import re
from collections.abc import Iterator

Found = tuple[int, int, str, str]  # start, end, kind, value as equal ones agree in it

# The boundaries are ASCII letters and digits: scripts without spaces, particles and `_` touch a value on either side.
_LATIN = "A-Za-z\\u00c0-\\u024f"
_EMAILS = (
    re.compile(
        rf"(?<![{_LATIN}\d])[{_LATIN}\d][{_LATIN}\d_.%+-]{{0,63}}@(?:[{_LATIN}\d_-]{{1,63}}\.)+[{_LATIN}]{{2,24}}"
        rf"(?![{_LATIN}\d]|\.[{_LATIN}\d])"
    ),
    # A domain whose last part is in another script, as in .рф.
    re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_a-zA-Z]{2,24}\b(?!\.\w)"),
)
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.IGNORECASE
)
_CARD = re.compile(r"(?<![A-Za-z\d.-])\d(?:[ -]?\d){12,18}(?![A-Za-z\d-])")
_PHONES = (
    re.compile(r"(?<![A-Za-z\d+.])(?<!\d[ -])(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,6}(?![A-Za-z\d])"),
    re.compile(r"(?<![A-Za-z\d+.])\(\d{2,5}\)[ ./-]?\d{2,5}(?:[ ./-]?\d{2,5}){1,3}(?![A-Za-z\d])"),
    re.compile(r"(?<![A-Za-z\d+.-])(?:1[ .-])?[2-9]\d\d([ .-])[2-9]\d\d\1\d{4}(?![A-Za-z\d-])"),
    re.compile(r"(?<![A-Za-z\d+.-])0[1-9]\d{0,4}(?:[ ./-]\d{2,8}){1,4}(?![A-Za-z\d-])"),
    re.compile(r"(?<![A-Za-z\d+.-])0\d{9,11}(?![A-Za-z\d.-])"),
    re.compile(
        r"(?<![A-Za-z\d+.-])(?!\d*0{6})1[3-9]\d([ -]?)\d{4}\1\d{4}(?![A-Za-z\d-]|\.\d)"
    ),  # mobiles of mainland China
)
# Numbers of persons: residents of mainland China (GB 11643), social security in the United States.
_RESIDENT = re.compile(r"(?<![A-Za-z\d.-])[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])\d{5}[\dXx](?![A-Za-z\d-])")
_SOCIAL_SECURITY = re.compile(
    r"(?<![A-Za-z\d.-])(?!000|666|9)\d{3}([ -])(?!00)\d{2}\1(?!0000)\d{4}(?![A-Za-z\d-]|\.\d)"
)
_IP4 = re.compile(r"(?<![A-Za-z\d.])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z\d]|\.\d)")
_IP6 = re.compile(r"(?<![A-Za-z\d:.])[0-9A-Fa-f:]{2,39}(?:%[A-Za-z\d]+)?(?![A-Za-z\d:]|\.\d)")
_MAC = re.compile(r"(?<![A-Za-z\d:-])(?:[0-9A-Fa-f]{2}([:-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![A-Za-z\d:-])")
_VERSION = re.compile(
    r"(?:version|release|v|ver|build|версия|版本号?|バージョン|버전)[.:：是]?[\s_-]*\Z", re.IGNORECASE
)
_ISO_DATE = re.compile(
    r"(?:19|20)\d\d[-./ ](?:0?[1-9]|1[0-2])[-./ ](?:0?[1-9]|[12]\d|3[01])\b|\d{1,2}[-./ ]\d{1,2}[-./ ](?:19|20)\d\d\b"
)
_LENGTHS = {  # of IBANs, by country
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28,
    "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24,
    "TR": 26, "UA": 29, "VG": 24, "XK": 20,
}  # fmt: skip


def numbers_and_addresses(text: str) -> Iterator[Found]:
    """Yield addresses of mail and machines, IBANs, and numbers of cards, phones and persons; they may overlap."""
    if "@" in text:
        for match in (match for pattern in _EMAILS for match in pattern.finditer(text)):
            yield match.start(), match.end(), "EMAIL", match[0].lower()
    if ":" in text or "-" in text:
        for match in _MAC.finditer(text):
            yield match.start(), match.end(), "MAC", match[0].lower().replace("-", ":")
    if ":" in text:
        yield from _ip6(text)
    if not any(letter.isdigit() for letter in text):
        return
    for match in _IBAN.finditer(text):
        yield from _iban(match)
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if digits[0] in "23456" and is_luhn(digits) and len(set(digits)) > 1:
            yield match.start(), match.end(), "CARD", digits
    for match in _IP4.finditer(text):
        if _is_machine(match[0]) and not _VERSION.search(text[: match.start()][-12:]):
            yield match.start(), match.end(), "IP", match[0]
    yield from _phones(text)
    yield from _persons(text)


def _iban(match: re.Match[str]) -> Iterator[Found]:
    """Yield the IBAN that a match begins with: what follows may belong to the next word."""
    value = re.sub(r"[ -]", "", match[0]).upper()
    length = _LENGTHS.get(value[:2], 0)
    if not length or len(value) < length or not is_iban(value[:length]):
        return
    end, seen = match.start(), 0
    while seen < length:
        seen += match.string[end] not in " -"
        end += 1
    if end == match.end() or not match.string[end].isalnum():
        yield match.start(), end, "IBAN", value[:length]


def _phones(text: str) -> Iterator[Found]:
    for pattern in _PHONES:
        for match in pattern.finditer(text):
            digits = re.sub(r"\D", "", match[0])
            if 8 <= len(digits) <= 15 and len(set(digits)) > 2 and not _ISO_DATE.search(match[0]):
                yield match.start(), match.end(), "PHONE", digits.removeprefix("00")


def _persons(text: str) -> Iterator[Found]:
    for match in _RESIDENT.finditer(text):
        if is_resident_number(match[0]):
            yield match.start(), match.end(), "ID", match[0].upper()
    for match in _SOCIAL_SECURITY.finditer(text):
        yield match.start(), match.end(), "ID", re.sub(r"\D", "", match[0])


def _ip6(text: str) -> Iterator[Found]:
    for match in _IP6.finditer(text):
        value = match[0].rstrip(":") if match[0].endswith(":") and not match[0].endswith("::") else match[0]
        groups = [group for group in value.split("%")[0].split(":") if group]
        # Two colons are also an operator, as in std::cafe, and colons stand in times.
        if value.count(":") < 2 or len(groups) < (2 if value.lower().startswith(("fe80", "fd", "2")) else 4):
            continue
        if _is_machine(value):
            yield match.start(), match.start() + len(value), "IP", value.lower()


def _is_machine(value: str) -> bool:
    """Return whether this is the address of a certain machine: not the own one, nor a mask."""
    try:
        address = ipaddress.ip_address(value.split("%")[0])
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or value.startswith("255."))


def is_luhn(digits: str) -> bool:
    """Return whether the last of these digits is the right check digit, as on payment cards."""
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_resident_number(value: str) -> bool:
    """Return whether a Chinese resident number of 18 characters has the right check digit (ISO 7064, modulo 11)."""
    total = sum(int(digit) * (2 ** (17 - index) % 11) for index, digit in enumerate(value[:17]))
    return value[17].upper() == "10X98765432"[total % 11]


def is_iban(value: str) -> bool:
    """Return whether an IBAN without spaces has the right check digits."""
    moved = value[4:] + value[:4]
    return moved.isalnum() and moved.isascii() and int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1
