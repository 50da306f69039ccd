"""A change that does not start is taken back while Nebula serves, and a restart does not bring it in again."""

from __future__ import annotations

from nebula_core.testing.waiting import eventually

MODEL = '[[models]]\nmodel_uid = "m"\nengine = "fake"\n'
BROKEN = "crash = 3\n"


def version(nebula) -> set[str]:
    return {replica["assignment_version"] for replica in nebula.model("m")["replicas"]}


def test_a_broken_change_is_rolled_back_and_stays_so_over_a_restart_with_the_same_file(make_nebula, fake_engines):
    nebula = make_nebula(MODEL, python_path=fake_engines).start()
    good = version(nebula)
    nebula.settings.write_text(nebula.settings.read_text() + BROKEN)
    nebula.cli("apply")
    eventually(lambda: version(nebula) - good, 30)
    told = nebula.cli("models", "rollback", "m").stdout
    assert "m goes back: crash 3 → not set" in told
    assert told.endswith("m is back\n")
    eventually(lambda: version(nebula) == good, 30)
    assert nebula.chat("m").status_code == 200

    nebula.stop()
    nebula.start()
    assert version(nebula) == good
    assert 'the model "m" was rolled back from what the settings ask for and stays so' in " ".join(nebula.log.read_text().split())
    assert nebula.chat("m").status_code == 200
