"""Korean particles that follow the sound a word ends with: 은/는, 이/가, 을/를, 과/와, 으로/로.

A Hangul syllable is 0xAC00 + (initial × 21 + vowel) × 28 + final, with final 0 for none and 8 for ㄹ
(Unicode 15, section 3.12). A digit counts as it is read aloud: 3 is 삼, which ends in a consonant; 7 is 칠,
which ends in ㄹ. A Latin letter counts by its Korean name: L is 엘, R is 알, M is 엠, N is 엔.
"""

HANGUL_FIRST, HANGUL_LAST = 0xAC00, 0xD7A3
FINALS_PER_VOWEL = 28
FINAL_NONE, FINAL_RIEUL, FINAL_OTHER = 0, 8, 1

READ_WITH_RIEUL = frozenset("178LRlr")
READ_WITH_OTHER_FINAL = frozenset("036MNmn")
READ_WITH_VOWEL = frozenset("%℃")

# What a template writes → (after a consonant, after a vowel).
PARTICLES = {
    "은": ("은", "는"),
    "이": ("이", "가"),
    "을": ("을", "를"),
    "과": ("과", "와"),
    "으로": ("으로", "로"),
    "이라": ("이라", "라"),
    "이란": ("이란", "란"),
    "이나": ("이나", "나"),
    "이며": ("이며", "며"),
    "이고": ("이고", "고"),
    "이야": ("이야", "야"),
    "이랑": ("이랑", "랑"),
    "이에요": ("이에요", "예요"),
    "이었": ("이었", "였"),
    "아": ("아", "야"),
}


def final_consonant(word: str) -> int:
    """How `word` ends when read aloud: `FINAL_NONE`, `FINAL_RIEUL` or `FINAL_OTHER`.

    Closing quotes and brackets are passed over. A word without a letter or digit ends in a vowel.
    """
    for character in reversed(word):
        if HANGUL_FIRST <= ord(character) <= HANGUL_LAST:
            final = (ord(character) - HANGUL_FIRST) % FINALS_PER_VOWEL
            return final if final in (FINAL_NONE, FINAL_RIEUL) else FINAL_OTHER
        if character in READ_WITH_RIEUL:
            return FINAL_RIEUL
        if character in READ_WITH_OTHER_FINAL:
            return FINAL_OTHER
        if character.isalnum() or character in READ_WITH_VOWEL:
            return FINAL_NONE
    return FINAL_NONE


def with_particle(word: str, particle: str) -> str:
    """Return `word` with the right form of `particle`.

    Raises:
        ValueError: `particle` is not one of the keys of `PARTICLES`.

    Example:
        >>> with_particle("서울", "으로"), with_particle("부산", "으로"), with_particle("제주", "은")
        ('서울로', '부산으로', '제주는')
    """
    if particle not in PARTICLES:
        raise ValueError(
            f"unknown particle {particle!r} after {word!r}: choose one of {', '.join(PARTICLES)}"
        )
    after_consonant, after_vowel = PARTICLES[particle]
    final = final_consonant(word)
    if particle == "으로" and final == FINAL_RIEUL:
        return word + after_vowel
    return word + (after_vowel if final == FINAL_NONE else after_consonant)
