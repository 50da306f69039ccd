import pytest

pytest.register_assert_rewrite("nebula_core.testing.store")
