"""How the pages of the evaluation are made: one template engine with the filters that all of them use.

A page needs nothing but itself: style sheet and plots are inside, its content security policy forbids every request,
and all text from models and data is escaped.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from yunmin_assets.evaluation import formatting


def environment() -> Environment:
    """Templates beside this file; an undefined name in one is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        formatting.count,
        formatting.size,
        formatting.seconds,
        formatting.percent,
        formatting.signed_percent,
        formatting.perplexity,
        formatting.p_value,
        formatting.decimal,
        formatting.moment,
        breakable,
    )
    made.filters.update({each.__name__: each for each in filters})
    return made


def breakable(name: str) -> Markup:
    """The name, with leave to break a line after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))
