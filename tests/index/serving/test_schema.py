"""Schemathesis against the server's own schema: whatever is sent, no answer is a 5xx."""

import pytest
import requests

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is a dev dependency")


def test_no_request_makes_a_5xx(url: str) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis.core.result import Ok

    made = requests.get(f"{url}/api/map", params={"method": "umap"}, timeout=120)
    assert made.status_code == 200  # numba compiles for longer than a case below may take
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    assert len(operations) >= 9
    cases = st.one_of([operation.as_strategy() for operation in operations])

    @given(case=cases)
    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case) -> None:
        answer = case.call(timeout=120)  # the first map by UMAP compiles it
        assert answer.status_code < 500, (case.method, case.path, answer.text)

    check()
