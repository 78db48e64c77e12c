"""A small template language, and the domains written in it (`domains/*.yaml`).

A *bank* is a name with a list of templates. In a template

    {city}            stands for a template of the bank `city`, itself expanded
    {city:은}         the same, followed by 은 or 는 as its sound asks
    <사과|수박>{:을}    puts 을 or 를 after whatever comes before it
    {12-98}           stands for a number of that range, as do {1.0-9.9} and {1,000-9,000}
    <빨리|천천히>      stands for one of the alternatives

Within one document a bank is dealt like a deck of cards: nothing comes twice until the deck is through, so
a document does not repeat a sentence. Banks listed under `document` (or under a topic's `keep`) are
expanded once and then stay, so a person or a product keeps its name to the end. A topic's banks come before
its domain's, which come before `common.yaml`.

A *plan* is a document: one line per paragraph, one bank name per sentence. `fact*2-4` puts two to four
sentences into the paragraph, `turn+2-4` writes two to four paragraphs.
"""

import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from yunmin_assets.corpus.sample.josa import with_particle

DOMAINS = ("korean_textbook", "national_assembly_data", "web_data", "social_media_data", "papers_data")
MIN_CHARACTERS, MAX_CHARACTERS = 400, 1_500
MAX_ATTEMPTS = 200
LARGEST_ROUND_NUMBER = (
    10_000  # prices of 12,000-98,000 go up in steps of 100, ten times finer than the limits
)

INNERMOST_ALTERNATIVES = re.compile(r"<([^<>]*)>")
SLOT = re.compile(r"\{([^{}:]+)(?::([^{}]+))?\}")
PARTICLE_AFTER_WORD = re.compile(r"(\S)\{:([^{}]+)\}")
NUMBER_RANGE = re.compile(r"([\d.,]+)-([\d.,]+)")
PLAN_STEP = re.compile(r"(\w+)(?:([*+])(\d+)(?:-(\d+))?)?")

Banks = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Domain:
    """What `domains/<name>.yaml` says."""

    name: str
    banks: Banks
    document: tuple[str, ...]
    """Banks that are expanded once per document."""
    plans: tuple[str, ...]
    topics: tuple[Banks, ...]
    """Banks of each topic; a topic with a bank `plans` has its own plans."""
    variant_share: float
    """Share of the domain's documents that are copies or near copies of another."""
    variants: Mapping[str, float]
    """Relative frequency of each kind of variant."""


@cache
def load_domain(name: str) -> Domain:
    """Read one domain and the banks that all domains share."""
    content = _read_yaml(f"{name}.yaml")
    return Domain(
        name=name,
        banks=_banks(_read_yaml("common.yaml")) | _banks(content["banks"]),
        document=tuple(content["document"]),
        plans=_alternatives(content.get("plans", [])),
        topics=tuple(_banks(topic) for topic in content["topics"]),
        variant_share=content["variant_share"],
        variants=content["variants"],
    )


def compose(domain: Domain, rng: random.Random) -> str:
    """Write one document of 400 to 1,500 characters.

    Raises:
        ValueError: no plan of the domain gives that length, or a template names an unknown bank.
    """
    for _ in range(MAX_ATTEMPTS):
        topic = rng.choice(domain.topics)
        author = Author(dict(domain.banks) | dict(topic), rng)
        for name in (*domain.document, *topic.get("keep", ())):
            author.keep(name)
        text = author.follow(rng.choice(topic.get("plans", domain.plans)))
        if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
            return text
    raise ValueError(
        f"{domain.name}.yaml: {MAX_ATTEMPTS} documents in a row were not of {MIN_CHARACTERS} to "
        f"{MAX_CHARACTERS} characters (the last has {len(text)}): lengthen or shorten its plans"
    )


class Author:
    """Expands the templates of one document."""

    def __init__(self, banks: Banks, rng: random.Random) -> None:
        self._banks, self._rng = banks, rng
        self._decks: dict[str, list[str]] = {}
        self._kept: dict[str, str] = {}

    def keep(self, name: str) -> None:
        """Expand the bank `name` now and use the result for the rest of the document."""
        self._kept[name] = self._deal(name)

    def expand(self, template: str) -> str:
        """Replace every alternative and slot of `template`."""
        while "<" in template:
            template = INNERMOST_ALTERNATIVES.sub(
                lambda found: self._rng.choice(found.group(1).split("|")), template
            )
        text = SLOT.sub(self._fill, template)
        return PARTICLE_AFTER_WORD.sub(lambda found: with_particle(*found.groups()), text)

    def follow(self, plan: str) -> str:
        """Write the document of a plan, its paragraphs separated by line feeds."""
        return "\n".join(
            paragraph.rstrip() for line in plan.split("\n") for paragraph in self._paragraphs(line)
        )

    def _paragraphs(self, line: str) -> Iterator[str]:
        sentences = []
        for name, mark, lowest, highest in PLAN_STEP.findall(line):
            repeats = self._rng.randint(int(lowest), int(highest or lowest)) if mark else 1
            expanded = [self._deal(name) for _ in range(repeats)]
            if mark == "+":
                yield from expanded
            else:
                sentences += expanded
        if sentences:
            yield " ".join(sentences)

    def _deal(self, name: str) -> str:
        if name in self._kept:
            return self._kept[name]
        if not self._decks.get(name):
            if name not in self._banks:
                raise ValueError(
                    f"no bank named {name!r}: add it to the domain's YAML file or correct the slot"
                )
            self._decks[name] = self._rng.sample(self._banks[name], len(self._banks[name]))
        return self.expand(self._decks[name].pop())

    def _fill(self, slot: re.Match[str]) -> str:
        name, particle = slot.groups()
        word = (
            self._number(*limits.groups()) if (limits := NUMBER_RANGE.fullmatch(name)) else self._deal(name)
        )
        return with_particle(word, particle) if particle else word

    def _number(self, lowest: str, highest: str) -> str:
        if "." in lowest:
            decimals = len(lowest.partition(".")[2])
            return f"{self._rng.uniform(float(lowest), float(highest)):.{decimals}f}"
        if "," in lowest + highest:
            first, last = int(lowest.replace(",", "")), int(highest.replace(",", ""))
            step = max(1, math.gcd(first, last, LARGEST_ROUND_NUMBER) // 10)
            return f"{self._rng.randrange(first, last + 1, step):,}"
        return str(self._rng.randint(int(lowest), int(highest)))


def _read_yaml(file_name: str) -> dict[str, Any]:
    folder = resources.files(__package__) / "domains"
    content: dict[str, Any] = yaml.safe_load((folder / file_name).read_text(encoding="utf-8"))
    return content


def _banks(content: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: _alternatives(value) for name, value in content.items()}


def _alternatives(value: str | list[str]) -> tuple[str, ...]:
    """A block of lines or a list of words, with a written `\\n` as a line feed."""
    entries = value.strip().split("\n") if isinstance(value, str) else value
    return tuple(str(entry).strip().replace("\\n", "\n") for entry in entries)
