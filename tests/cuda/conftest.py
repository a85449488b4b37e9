from __future__ import annotations

import pytest

from cuda.devices import DEVICES


@pytest.fixture(params=DEVICES or [pytest.param("none", marks=pytest.mark.skip("no GPU"))])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["f32", "bf16", "f16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)
