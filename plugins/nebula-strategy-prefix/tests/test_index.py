from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nebula_strategy_prefix.index import PrefixIndex

SIZE = 10
EVERYTHING = 1 << 60


def filled(*prompts: list[int], budget: int = EVERYTHING, most: int = EVERYTHING) -> tuple[PrefixIndex, int]:
    index = PrefixIndex()
    slot = index.add()
    for prompt in prompts:
        index.touch(slot, prompt, [SIZE] * len(prompt), budget, most)
    return index, slot


def test_what_was_sent_is_held():
    index, slot = filled([1, 2, 3])
    assert index.depth(slot, [1, 2, 3, 4]) == 3
    assert index.match([1, 2, 9]) == [(2, 1 << slot)]


def test_the_end_of_the_oldest_prompt_goes_first():
    index, slot = filled([1, 2, 3], [7, 8], budget=4 * SIZE)
    assert (index.depth(slot, [1, 2, 3]), index.depth(slot, [7, 8])) == (2, 2)


def test_a_prompt_that_is_used_again_is_the_newest():
    index, slot = filled([1, 2], [7, 8], [1, 2], [5], budget=4 * SIZE)
    assert (index.depth(slot, [1, 2]), index.depth(slot, [7, 8]), index.depth(slot, [5])) == (2, 1, 1)


def test_a_prompt_larger_than_the_cache_leaves_its_beginning():
    index, slot = filled(list(range(100)), budget=7 * SIZE)
    assert index.depth(slot, range(100)) == 7


def test_the_number_of_blocks_is_bounded_whatever_the_budget():
    index, slot = filled(list(range(100)), most=5)
    assert len(index.cache(slot).blocks) == len(index) == 5


def test_forgotten_blocks_are_held_by_others_still():
    index, slot = filled([1, 2, 3])
    other = index.add()
    index.touch(other, [1, 2, 3], [SIZE] * 3, EVERYTHING, EVERYTHING)
    index.forget(slot, [2, 3])
    assert index.match([1, 2, 3]) == [(1, 1 << slot), (3, 1 << other)]


class AgainstPlainLists(RuleBasedStateMachine):
    """The bit masks and the ordered caches against one list per replica, newest last."""

    def __init__(self):
        super().__init__()
        self.index = PrefixIndex()
        self.plain: dict[int, list[int]] = {}

    @rule()
    @precondition(lambda self: len(self.plain) < 6)
    def add(self):
        self.plain[self.index.add()] = []

    @rule(data=st.data())
    @precondition(lambda self: self.plain)
    def remove(self, data):
        slot = data.draw(st.sampled_from(sorted(self.plain)))
        self.index.remove(slot)
        del self.plain[slot]

    @rule(data=st.data(), prompt=st.lists(st.integers(0, 12), unique=True, max_size=8), budget=st.integers(0, 9))
    @precondition(lambda self: self.plain)
    def touch(self, data, prompt, budget):
        slot = data.draw(st.sampled_from(sorted(self.plain)))
        self.index.touch(slot, prompt, [SIZE] * len(prompt), budget * SIZE, EVERYTHING)
        held = [block for block in self.plain[slot] if block not in prompt] + prompt[::-1]
        self.plain[slot] = held[max(0, len(held) - budget) :]

    @rule(data=st.data(), blocks=st.lists(st.integers(0, 12), max_size=4))
    @precondition(lambda self: self.plain)
    def forget(self, data, blocks):
        slot = data.draw(st.sampled_from(sorted(self.plain)))
        self.index.forget(slot, blocks)
        self.plain[slot] = [block for block in self.plain[slot] if block not in blocks]

    @rule(prompt=st.lists(st.integers(0, 12), unique=True, max_size=8))
    def match(self, prompt):
        found = {}
        for depth, mask in self.index.match(prompt):
            found.update({slot: depth for slot in range(self.index.slots) if mask >> slot & 1})
        for slot, held in self.plain.items():
            expected = next((i for i, block in enumerate(prompt) if block not in held), len(prompt))
            assert found[slot] == self.index.depth(slot, prompt) == expected

    @invariant()
    def caches_agree(self):
        for slot, held in self.plain.items():
            cache = self.index.cache(slot)
            assert list(cache.blocks) == held
            assert cache.used == len(held) * SIZE
        assert len(self.index) == len({block for held in self.plain.values() for block in held})


TestAgainstPlainLists = AgainstPlainLists.TestCase
TestAgainstPlainLists.settings = settings(max_examples=40)


@given(st.lists(st.lists(st.integers(), unique=True, max_size=30), max_size=30), st.integers(0, 200))
def test_a_cache_never_exceeds_its_budget(prompts, budget):
    index, slot = filled(*prompts, budget=budget)
    assert index.cache(slot).used <= budget
    assert len(index) == len(index.cache(slot).blocks)
