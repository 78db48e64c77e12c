"""The one partition of the graph: a domain of text, such as law or papers_data."""

from dagster import DynamicPartitionsDefinition

domain_partitions = DynamicPartitionsDefinition(name="domain")
