"""Cached replies and budgets: a replay is exact and free, and no limit is exceeded."""

import contextlib
import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.errors import DataError, UsageError
from didact.llm import budget as llm_budget
from didact.llm.budget import Budget, Usage, UsageTracker
from didact.llm.cache import BATCH_SIZE, ChatCache
from didact.llm.chat import ChatReply, ChatRequest
from didact.types import Message
from tests.judge_server import JudgeServer, open_chat


class CountingChat:
    """Numbers its replies; a text that holds "fail" gets none. Each costs 1 USD and never over 2."""

    def __init__(self, name="counting", cost=1.0, bound=2.0):
        self.name, self.cost, self.bound = name, cost, bound
        self.batches = []

    @property
    def asked(self):
        return [r.messages[-1].content for batch in self.batches for r in batch]

    def request_hash(self, request):
        text = json.dumps([self.name, [m.model_dump() for m in request.messages], request.schema])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def cost_bound(self, request):
        return self.bound

    def complete(self, requests):
        before = len(self.asked)
        self.batches.append(list(requests))
        return [self._reply(before + i, request) for i, request in enumerate(requests)]

    def _reply(self, number, request):
        key = self.request_hash(request)
        if "fail" in request.messages[-1].content:
            return ChatReply(error="down", request_hash=key, cost_usd=self.cost)
        return ChatReply(f"reply {number}", number, self.cost, key)


def asked(*texts, schema=None):
    return [ChatRequest((Message(role="user", content=text),), schema) for text in texts]


# ── cache ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_replay_is_exact_and_sends_no_request(tmp_path):
    first = CountingChat()
    replies = ChatCache(first, tmp_path / "a" / "b").complete(asked("x", "y"))
    second = CountingChat()
    cache = ChatCache(second, tmp_path / "a" / "b")
    assert cache.complete(asked("y", "x")) == replies[::-1]
    assert (second.batches, cache.name) == ([], "counting")
    assert replies[0].cost_usd == 1.0


def test_another_model_message_or_schema_is_another_request(tmp_path):
    ChatCache(CountingChat(), tmp_path).complete(asked("x"))
    for model, request in (
        (CountingChat("other"), asked("x")),
        (CountingChat(), asked("x ")),
        (CountingChat(), asked("x", schema={"type": "object"})),
    ):
        ChatCache(model, tmp_path).complete(request)
        assert len(model.asked) == 1


def test_only_what_is_missing_is_asked_and_equal_requests_once(tmp_path):
    model = CountingChat()
    cache = ChatCache(model, tmp_path)
    cache.complete(asked("x"))
    replies = cache.complete(asked("y", "x", "y", "z"))
    assert model.asked == ["x", "y", "z"]
    assert [r.text for r in replies] == ["reply 1", "reply 0", "reply 1", "reply 2"]


def test_failures_are_not_cached(tmp_path):
    model = CountingChat()
    cache = ChatCache(model, tmp_path)
    for _ in range(2):
        (reply,) = cache.complete(asked("fail"))
        assert reply.error == "down"
    assert len(model.asked) == 2
    assert not list(tmp_path.rglob("*.json"))


def corrupt(file, how):
    content = file.read_text()
    record = json.loads(content)
    if how == "reply":
        record["reply"]["text"] = "forged"
    elif how == "key":
        record["key"] = "0" * 64
    elif how == "form":
        record["reply"]["tokens"] = "many"
        record["check"] = hashlib.sha256(json.dumps(record["reply"], sort_keys=True).encode()).hexdigest()
    new = {"torn": content[:40], "empty": "", "list": "[]", "binary": "\x00\x01"}.get(how, json.dumps(record))
    file.write_text(new)


@pytest.mark.parametrize("how", ["torn", "empty", "list", "binary", "reply", "key", "form"])
def test_a_damaged_file_is_named_asked_for_anew_and_mended(tmp_path, caplog, how):
    ChatCache(CountingChat(), tmp_path).complete(asked("x"))
    (file,) = tmp_path.rglob("*.json")
    corrupt(file, how)
    model = CountingChat()
    (reply,) = ChatCache(model, tmp_path).complete(asked("x"))
    assert (reply.text, model.asked) == ("reply 0", ["x"])
    assert str(file) in caplog.text
    fresh = CountingChat()
    assert ChatCache(fresh, tmp_path).complete(asked("x")) == [reply]
    assert not fresh.asked


def test_a_reply_that_cannot_be_kept_is_given_all_the_same(tmp_path, caplog, monkeypatch):
    cache = ChatCache(CountingChat(), tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert [r.text for r in cache.complete(asked("x", "y"))] == ["reply 0", "reply 1"]
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]
    assert caplog.text.count("No space left") == 1


def test_what_is_paid_for_is_written_before_more_is_asked(tmp_path):
    class Killed(CountingChat):
        def complete(self, requests):
            if self.batches:
                raise KeyboardInterrupt
            return super().complete(requests)

    with pytest.raises(KeyboardInterrupt):
        ChatCache(Killed(), tmp_path).complete(asked(*map(str, range(BATCH_SIZE + 5))))
    assert len(list(tmp_path.rglob("*.json"))) == BATCH_SIZE


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the cache .*file"):
        ChatCache(CountingChat(), tmp_path / "file")


@given(text=st.text(max_size=50), tokens=st.integers(0, 2**60), cost=st.floats(0, 1e9))
def test_any_reply_comes_back_as_it_was(tmp_path_factory, text, tokens, cost):
    class Given(CountingChat):
        def _reply(self, number, request):
            return ChatReply(text, tokens, cost, self.request_hash(request))

    folder = tmp_path_factory.mktemp("cache")
    first = ChatCache(Given(), folder).complete(asked(text))
    silent = CountingChat("counting")
    assert ChatCache(silent, folder).complete(asked(text)) == first
    assert not silent.asked


def test_over_http_a_replay_sends_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with JudgeServer(lambda messages: f"about {messages[0]['content']}") as server:
        settings = {"base_url": server.url, "price_in": 1, "price_out": 1}
        first = ChatCache(open_chat("m", **settings), tmp_path).complete(asked("x", "y"))
        again = ChatCache(open_chat("m", **settings), tmp_path).complete(asked("x", "y"))
        assert len(server.bodies) == 2
        hotter = open_chat("m", **settings, temperature=1.0)
        ChatCache(hotter, tmp_path).complete(asked("x"))
        assert len(server.bodies) == 3
    assert first == again
    assert first[0].cost_usd > 0


# ── budgets ───────────────────────────────────────────────────────────────────────────────────────


def test_beyond_max_requests_nothing_is_sent():
    model = CountingChat()
    budget = Budget(model, max_requests=3)
    replies = budget.complete(asked("a", "b")) + budget.complete(asked("c", "d", "e"))
    assert model.asked == ["a", "b", "c"]
    assert [r.error is None for r in replies] == [True, True, True, False, False]
    assert [r.error_kind for r in replies] == [None, None, None, "budget", "budget"]
    assert "max_requests = 3" in replies[3].error
    assert replies[3].request_hash == model.request_hash(asked("d")[0])
    assert (replies[3].cost_usd, replies[3].tokens) == (0, 0)
    assert (budget.requests, budget.spent_usd) == (3, 3.0)


def test_a_failed_request_counts():
    model = CountingChat()
    replies = Budget(model, max_requests=1).complete(asked("fail", "a"))
    assert [r.error_kind for r in replies] == [None, "budget"]
    assert Budget(model, max_requests=0).complete(asked("a"))[0].error_kind == "budget"


@given(
    limit=st.floats(0, 30), cost=st.floats(0, 2), sizes=st.lists(st.integers(0, 9), max_size=4),
)  # fmt: skip
def test_the_cost_never_exceeds_the_limit_and_what_fits_is_sent(limit, cost, sizes):
    model = CountingChat(cost=cost, bound=2.0)
    budget = Budget(model, max_cost_usd=limit)
    replies = [r for size in sizes for r in budget.complete(asked(*map(str, range(size))))]
    sent = sum(r.error is None for r in replies)
    assert len(replies) == sum(sizes)
    assert budget.spent_usd <= limit
    assert sent == len(model.asked)
    if sent < len(replies):
        assert budget.spent_usd + 2.0 > limit
        assert replies[-1].error_kind == "budget"
        assert "max_cost" in replies[-1].error


def test_kept_replies_cost_the_budget_nothing(tmp_path):
    model = CountingChat()
    ChatCache(model, tmp_path).complete(asked("a", "b"))
    budget = Budget(CountingChat(), max_requests=1)
    replies = ChatCache(budget, tmp_path).complete(asked("a", "b", "c", "d"))
    assert [r.error is None for r in replies] == [True, True, True, False]
    assert budget.requests == 1


@pytest.mark.parametrize(
    ("limit", "sent"),
    [({"max_requests": 3}, False), ({"max_cost_usd": 4.9}, False), ({"max_cost_usd": 5}, True)],
)
def test_a_resumed_budget_goes_on_where_it_stopped(tmp_path, limit, sent):
    tracker = UsageTracker(tmp_path / "usage.json")
    tracker.add(3, 3.0)
    (reply,) = Budget(CountingChat(), **limit, tracker=tracker).complete(asked("a"))
    assert (reply.error is None) == sent


def test_a_ledger_carries_a_budget_from_one_process_to_the_next(tmp_path):
    file = tmp_path / "replies" / "budget.json"
    first = Budget(CountingChat(), max_cost_usd=5, tracker=UsageTracker(file))
    assert not file.parent.exists(), "nothing is written before something is sent"
    sent = [r.error is None for r in first.complete(asked("a", "b", "c", "d", "e"))]
    assert sent == [True, True, True, True, False]
    assert json.loads(file.read_text()) == {"requests": 4, "spent_usd": 4.0}
    assert [f.name for f in file.parent.iterdir()] == ["budget.json"]
    second = Budget(CountingChat(), max_cost_usd=5, tracker=UsageTracker(file))
    assert (second.requests, second.spent_usd) == (4, 4.0)
    assert second.complete(asked("e"))[0].error_kind == "budget"
    third = Budget(CountingChat(), max_requests=5, tracker=UsageTracker(file))
    assert [r.error is None for r in third.complete(asked("e", "f"))] == [True, False]


@given(stops=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=5), cost=st.floats(0, 2))
def test_however_often_a_run_is_killed_the_limit_holds(tmp_path_factory, stops, cost):
    class Mortal(CountingChat):
        def complete(self, requests):
            done = super().complete(requests)
            if self.dies:
                raise KeyboardInterrupt
            return done

    file, paid = tmp_path_factory.mktemp("run") / "budget.json", 0.0
    for count, dies in stops:
        model = Mortal(cost=cost)
        model.dies = dies
        budget = Budget(model, max_cost_usd=10, max_requests=12, tracker=UsageTracker(file), batch_size=2)
        with contextlib.suppress(KeyboardInterrupt):
            budget.complete(asked(*map(str, range(count))))
        paid += cost * len(model.asked)
        kept = UsageTracker(file).read()
        assert paid <= kept.spent_usd + 1e-9 <= 10 + 1e-6
        assert kept.requests <= 12
        assert not dies or len(model.asked) <= 2


def test_a_key_that_is_refused_from_the_start_on_costs_nothing(tmp_path):
    class Refusing(CountingChat):
        def complete(self, requests):
            raise UsageError("wrong key")

    ledger = UsageTracker(tmp_path / "budget.json")
    with pytest.raises(UsageError):
        Budget(Refusing(), max_cost_usd=5, tracker=ledger).complete(asked("a", "b"))
    assert ledger.read() == Usage()


def test_a_ledger_is_shared_by_processes(tmp_path):
    one, other = UsageTracker(tmp_path / "b.json"), UsageTracker(tmp_path / "b.json")
    one.add(2, 1.5)
    assert other.add(3, 1.0) == Usage(requests=5, spent_usd=2.5)
    assert one.add(0, -2.5 - 1e-12) == Usage(requests=5, spent_usd=0.0)


@pytest.mark.parametrize(
    "damage", ['{"requests": 1', "[]", '{"requests": -1, "spent_usd": 0}', '{"spent": NaN}']
)
def test_a_damaged_ledger_is_refused_with_its_cure(tmp_path, damage):
    file = tmp_path / "budget.json"
    file.write_text(damage)
    with pytest.raises(DataError, match=r"budget\.json"):
        Budget(CountingChat(), max_requests=1, tracker=UsageTracker(file))
    assert file.read_text() == damage
    file.write_text("")
    assert UsageTracker(file).read() == Usage()


def test_a_full_disk_before_a_request_sends_nothing_and_after_it_loses_nothing(tmp_path, monkeypatch, caplog):
    ledger, model = UsageTracker(tmp_path / "budget.json"), CountingChat()
    budget = Budget(model, max_cost_usd=9, tracker=ledger)

    def full(*_):
        raise OSError(28, "No space left on device")

    class Filling(CountingChat):
        def complete(self, requests):
            monkeypatch.setattr(llm_budget, "write_atomically", full)
            return super().complete(requests)

    budget.model = Filling()
    assert budget.complete(asked("a"))[0].error is None
    assert str(ledger.file) in caplog.text
    assert ledger.read() == Usage(requests=1, spent_usd=2.0)
    budget.model = model
    with pytest.raises(OSError, match="No space left"):
        budget.complete(asked("b"))
    assert not model.asked
    unlimited = Budget(model, tracker=ledger)
    assert unlimited.complete(asked("b"))[0].error is None, "without a limit nothing depends on the ledger"


def test_over_http_the_bound_holds(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with JudgeServer(lambda messages: "five words are in here") as server:
        chat = open_chat("m", base_url=server.url, price_in=1.0, price_out=1.0, max_tokens=10)
        budget = Budget(chat, max_cost_usd=200e-6)
        replies = budget.complete(asked(*["one two"] * 40))
    assert 0 < budget.spent_usd <= 200e-6
    assert budget.spent_usd == pytest.approx(sum(r.cost_usd for r in replies))
    assert len(server.bodies) == sum(r.error is None for r in replies) == 22
