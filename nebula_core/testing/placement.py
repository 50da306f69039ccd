"""What every placement policy must do, whatever it goes by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nebula_core.interfaces import FreeGpu, Needs, Place, Placement, Spot
from nebula_core.types import ReplicaSpec

GIB = 2**30
LABELS = st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from("abc"))
INHERITED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
"""A contract's test is one function that runs for each class which inherits it."""
SIZES = st.none() | st.sampled_from([24, 40, 80]).map(GIB.__mul__)


@st.composite
def places(draw: st.DrawFn, gpus: int) -> list[Place]:
    """Nodes that a replica with so many GPUs fits on, by name."""

    def place(number: int) -> Place:
        free = draw(st.lists(SIZES, min_size=gpus, max_size=8))
        first = draw(st.integers(0, 2))
        return Place(
            node_id=f"n{number:02}",
            labels=draw(LABELS),
            free_gpus=tuple(FreeGpu(first + 2 * index, "", size) for index, size in enumerate(free)),
            gpus=len(free) + draw(st.integers(0, 4)),
            cpus=draw(st.none() | st.integers(1, 128)),
            replicas=draw(st.integers(0, 9)),
            siblings=draw(st.integers(0, 3)),
        )

    return [place(number) for number in range(draw(st.integers(1, 4)))]


Question = tuple[ReplicaSpec, Needs, Sequence[Place], Sequence[Mapping[str, str]]]


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """All that a policy is asked with."""
    spec = ReplicaSpec(model_uid="m", engine="e", gpus=draw(st.integers(0, 4)))
    needs = Needs(gpu_memory_bytes=draw(SIZES), is_learned=draw(st.booleans()), max_per_node=draw(st.none() | st.integers(1, 9)))
    return spec, needs, draw(places(spec.gpus)), draw(st.lists(LABELS, max_size=5))


class PlacementContract(ABC):
    """Inherit it in a test class and make the policy under test."""

    @abstractmethod
    def make_placement(self) -> Placement:
        """A fresh policy with its default settings."""

    @given(questions())
    @INHERITED
    def test_it_chooses_what_it_is_offered_or_waits(self, question: Question) -> None:
        """A node among the places, and GPUs that are free there, as many as are needed."""
        spec, _, offered, _ = question
        spot = self.make_placement().choose(*question)
        if spot is None:
            return
        place = next(place for place in offered if place.node_id == spot.node_id)
        assert len(set(spot.gpu_indexes)) == len(spot.gpu_indexes) == spec.gpus
        assert set(spot.gpu_indexes) <= {gpu.index for gpu in place.free_gpus}

    @given(asked=st.lists(questions(), min_size=1, max_size=3))
    @INHERITED
    def test_it_chooses_the_same_whatever_it_was_asked_before(self, asked: list[Question]) -> None:
        """A standby scheduler that takes over was asked nothing yet."""
        experienced = self.make_placement()
        answers: list[Spot | None] = [experienced.choose(*question) for question in asked]
        assert answers == [self.make_placement().choose(*question) for question in asked]

    @given(question=questions(), data=st.data())
    @INHERITED
    def test_the_order_of_siblings_does_not_matter(self, question: Question, data: st.DataObject) -> None:
        """They stand in no order."""
        spec, needs, offered, siblings = question
        turned = data.draw(st.permutations(siblings))
        placement = self.make_placement()
        assert placement.choose(spec, needs, offered, turned) == placement.choose(*question)
