"""Deployment on Kubernetes: the image, the chart's values, what the chart does not make, and the lint of it all."""
