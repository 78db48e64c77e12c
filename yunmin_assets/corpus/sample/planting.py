"""Decides which documents the sample has: originals, their variants, and what must not survive cleaning."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from yunmin_assets.corpus.sample.grammar import DOMAINS, Author, Domain, compose, load_domain
from yunmin_assets.corpus.sample.resemblance import grams, jaccard
from yunmin_assets.corpus.sample.variants import add_control_characters, make_variant

TOO_SHORT_SHARE = 0.003
CONTROL_CHARACTERS_SHARE = 0.003
SITE_FOOTER_SHARE = 0.25
"""Share of web originals that end in their site's footer."""
SAME_FAMILY_AGAIN = 0.3
"""Probability that a variant is made of an original that has one already."""
BOTH_ARE_VARIANTS = "same_original"
MIN_DOCUMENTS = 100


@dataclass(frozen=True)
class Planted:
    """One document with how it came to be."""

    text: str
    domain: str
    kind: str
    """`original`, `control_characters`, `too_short`, or a kind of variant."""
    family: int
    """Number of the original: documents with the same one come from the same text."""
    id: str = ""


@dataclass(frozen=True)
class Pair:
    """Two documents of one family, `a` < `b`, with their exact resemblance."""

    a: str
    b: str
    kind: str
    jaccard: float


def plant(seed: int, documents_per_domain: int) -> dict[str, list[Planted]]:
    """Write all documents, shuffled within their domain and numbered.

    Raises:
        ValueError: fewer than 100 documents per domain, too few for every kind of plant.
    """
    if documents_per_domain < MIN_DOCUMENTS:
        raise ValueError(f"documents_per_domain is {documents_per_domain}: ask for at least {MIN_DOCUMENTS}")
    domains = [load_domain(name) for name in DOMAINS]
    originals: list[Planted] = []
    for domain in domains:
        originals += _originals(domain, documents_per_domain, first_family=len(originals), seed=seed)
    pools = {name: [document for document in originals if document.domain == name] for name in DOMAINS}
    planted = list(originals)
    for domain in domains:
        planted += _variants(domain, documents_per_domain, pools, seed)
    planted += _too_short(documents_per_domain, first_family=len(originals), seed=seed)
    planted = _with_control_characters(planted, documents_per_domain, seed)
    return {name: _numbered([each for each in planted if each.domain == name], seed) for name in DOMAINS}


def pairs_of_families(documents: Mapping[str, Sequence[Planted]]) -> list[Pair]:
    """All pairs of documents that come from the same original, by id, with exact resemblance.

    Documents of different families do not resemble: the tests measure it over all pairs.
    """
    families: dict[int, list[Planted]] = {}
    for document in (each for name in DOMAINS for each in documents[name]):
        families.setdefault(document.family, []).append(document)
    pairs = []
    for family in families.values():
        sets = {member.id: grams(member.text) for member in family} if len(family) > 1 else {}
        for first, second in combinations(sorted(family, key=lambda member: member.id), 2):
            variant = {"original": second.kind}.get(first.kind, first.kind)
            kind = variant if "original" in (first.kind, second.kind) else BOTH_ARE_VARIANTS
            pairs.append(Pair(first.id, second.id, kind, jaccard(sets[first.id], sets[second.id])))
    return sorted(pairs, key=lambda pair: (pair.a, pair.b))


def _originals(domain: Domain, documents: int, *, first_family: int, seed: int) -> list[Planted]:
    rng = random.Random(f"{seed}/{domain.name}/originals")
    count = documents - _variant_count(domain, documents) - _share(documents, TOO_SHORT_SHARE)
    originals = []
    for number in range(count):
        text = compose(domain, rng)
        if "site_footer" in domain.banks and rng.random() < SITE_FOOTER_SHARE:
            text = f"{text}\n{_footers(domain, rng)[0]}"
        originals.append(Planted(text, domain.name, "original", first_family + number))
    return originals


def _variants(domain: Domain, documents: int, pools: Mapping[str, list[Planted]], seed: int) -> list[Planted]:
    rng = random.Random(f"{seed}/{domain.name}/variants")
    kinds = rng.choices(
        list(domain.variants), list(domain.variants.values()), k=_variant_count(domain, documents)
    )
    used: list[Planted] = []
    variants = []
    for kind in kinds:
        across = kind == "exact_across_domains"
        source = rng.choice([name for name in DOMAINS if name != domain.name]) if across else domain.name
        again = [] if across else used
        original = rng.choice(again if again and rng.random() < SAME_FAMILY_AGAIN else pools[source])
        if not across:
            used.append(original)
        footers = _footers(domain, rng) if kind == "footer" else ()
        variants.append(
            Planted(make_variant(kind, original.text, footers, rng), domain.name, kind, original.family)
        )
    return variants


def _too_short(documents: int, *, first_family: int, seed: int) -> list[Planted]:
    """Different one-liners: a document shorter than a sentence."""
    rng = random.Random(f"{seed}/too_short")
    wanted = _share(documents, TOO_SHORT_SHARE) * len(DOMAINS)
    texts: dict[str, None] = {}
    while len(texts) < wanted:
        texts[Author(load_domain(DOMAINS[0]).banks, rng).follow("too_short")] = None
    return [
        Planted(text, DOMAINS[number % len(DOMAINS)], "too_short", first_family + number)
        for number, text in enumerate(texts)
    ]


def _with_control_characters(planted: list[Planted], documents: int, seed: int) -> list[Planted]:
    """Put control characters into a few originals of each domain that have no variant."""
    rng = random.Random(f"{seed}/control_characters")
    related = {document.family for document in planted if document.kind != "original"}
    chosen: set[int] = set()
    for name in DOMAINS:
        alone = [each.family for each in planted if each.domain == name and each.family not in related]
        chosen.update(rng.sample(alone, _share(documents, CONTROL_CHARACTERS_SHARE)))
    return [
        replace(document, text=add_control_characters(document.text, rng), kind="control_characters")
        if document.family in chosen
        else document
        for document in planted
    ]


def _numbered(documents: list[Planted], seed: int) -> list[Planted]:
    domain = documents[0].domain
    random.Random(f"{seed}/{domain}/order").shuffle(documents)
    return [replace(document, id=f"{domain}/{number:05d}") for number, document in enumerate(documents)]


def _footers(domain: Domain, rng: random.Random) -> list[str]:
    return [Author(domain.banks, rng).follow("site_footer")]


def _variant_count(domain: Domain, documents: int) -> int:
    return round(documents * domain.variant_share)


def _share(documents: int, share: float) -> int:
    return max(1, int(documents * share))
