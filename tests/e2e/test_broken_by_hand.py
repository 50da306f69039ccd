"""What somebody breaks in the store by hand, or a newer Nebula writes there, takes no replica out of service."""

from __future__ import annotations

import pytest
from nebula_store_etcd.testing import running

from nebula_core.store import keys
from nebula_core.testing.waiting import eventually

MODEL = '[[models]]\nmodel_uid = "m"\nengine = "fake"\n'


@pytest.mark.parametrize("key", [keys.placement("m"), keys.model_request("m")])
def test_a_model_is_served_on_while_its_plan_or_its_request_cannot_be_read(make_nebula, fake_engines, tmp_path, key):
    with running(tmp_path / "etcd") as etcd:
        tables = f'[store]\nuse = "etcd"\n[store_etcd]\nendpoints = ["{etcd.endpoint}"]\n'
        nebula = make_nebula(tables + MODEL, python_path=fake_engines).start()
        etcd.ctl("put", f"/nebula{key}", "{")
        eventually(lambda: "cannot be read" in str(nebula.model("m")["reasons"]), 30)
        assert nebula.chat("m").status_code == 200
        nebula.stop()
