"""Scoring without a broker: files, HTTP, logged rollouts, and checks of verifiers."""
