"""Events are large: a machine with other work must not fail their property tests for being slow."""

from hypothesis import HealthCheck, settings

settings.register_profile("events", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("events")
