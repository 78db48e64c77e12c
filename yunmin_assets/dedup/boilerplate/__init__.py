"""Headers and footers: paragraphs that repeat over many documents of a domain.

`repeated_paragraphs` finds and removes them, over `paragraphs` (compiled: lines and their hashes) and
`hash_counts` (counting in bounded memory); `report` is what a person reads about them.
"""
