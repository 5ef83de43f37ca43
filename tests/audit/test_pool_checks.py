"""The audit of pools: what each breaks is found with a witness that replays, and what holds is left alone."""

import contextlib
import io
from functools import partial

import pytest
import torch

from mashbill import pools
from mashbill.audit import comparing, pool_asks, pool_forms
from mashbill.audit.cases import of_numbers
from mashbill.audit.hull import hull_certificate
from mashbill.audit.pool_checks import POOL_AXIOMS, check_pool, replay_pool
from mashbill.audit.searching import measured
from mashbill.audit.verdicts import Certificate, CheckResult

POOLS = {
    "linear": pools.linear,
    "log_linear": pools.log_linear,
    "power 1/2": partial(pools.power, r=0.5),
    "power 2": partial(pools.power, r=2),
    "harmonic": pools.harmonic,
    "itakura_saito": partial(pools.bregman, divergence="itakura_saito", side="left"),
}
ORDERS = {"linear": 1, "log_linear": 0, "power 1/2": 0.5, "power 2": 2, "harmonic": -1}
HULL, RANGE, COORDINATE = "pool.convexity.strong", "pool.convexity.weak", "pool.monotonicity.coordinate"
ALONE, LOSS, REGRET, UNSAFE = "pool.positivity.strong", "pool.logloss", "pool.regret", "pool.unsafe"
COMMUTES, ENTROPY, JUMPS = "pool.temperature.strong", "pool.temperature.entropy", "pool.continuity"
SOFT = {COMMUTES, ENTROPY}
NO_MIXTURE = {HULL, RANGE, COORDINATE, REGRET, UNSAFE}

# What the theory says of each: all other axioms hold, or were never seen broken.
BROKEN = {
    "linear": SOFT,
    "log_linear": NO_MIXTURE | {ALONE, JUMPS},
    "power 1/2": NO_MIXTURE | SOFT,
    "power 2": NO_MIXTURE | SOFT | {LOSS},
    "harmonic": NO_MIXTURE | SOFT | {LOSS, ALONE, JUMPS},
    "itakura_saito": NO_MIXTURE | SOFT | {LOSS, ALONE, JUMPS},
}
# What the theorems on power means prove, out of what each keeps.
ALWAYS = {"contract.permutation", "pool.normalised", "pool.positivity.weak", "pool.temperature.weak"}
PROVED = {
    "linear": set(pool_forms.THEOREMS) - SOFT,
    "log_linear": ALWAYS | SOFT | {"pool.monotonicity.divergence", LOSS},
    "power 1/2": ALWAYS | {ALONE, JUMPS, LOSS},
    "power 2": ALWAYS | {ALONE, JUMPS},
    "harmonic": ALWAYS,
}


class Declaring:
    """A pool with a form."""

    def __init__(self, pool, **form) -> None:
        self.pool, self.form = pool, form

    def __call__(self, log_p, log_w):
        return self.pool(log_p, log_w)


@pytest.fixture(scope="module", params=POOLS)
def audited(request) -> tuple[str, dict[str, CheckResult]]:
    return request.param, {result.axiom: result for result in check_pool(POOLS[request.param], name=request.param)}


def falsified(results: dict[str, CheckResult]) -> set[str]:
    return {axiom for axiom, result in results.items() if result.verdict == "falsified"}


def printed(replay: str, operator) -> float:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(replay, {"operator": operator})
    return float(out.getvalue())


def test_the_table_of_the_theory_comes_out(audited) -> None:
    name, results = audited
    assert list(results) == list(POOL_AXIOMS)
    assert falsified(results) == BROKEN[name]
    certified = {axiom for axiom, result in results.items() if result.verdict == "certified"}
    assert certified == PROVED.get(name, set())
    assert {results[axiom].verdict for axiom in set(results) - BROKEN[name] - certified} == {"survived"}


def test_every_witness_replays_twice_over(audited) -> None:
    name, results = audited
    for result in results.values():
        if result.witness is not None:
            witness = result.witness
            assert len(witness.replay.splitlines()) == 3
            assert witness.violation > 1e-6
            assert replay_pool(witness.inputs, POOLS[name]) == pytest.approx(witness.violation, rel=1e-6)
            assert printed(witness.replay, POOLS[name]) == pytest.approx(witness.violation, rel=1e-6)


def test_witnesses_are_small(audited) -> None:
    _, results = audited
    for axiom in falsified(results):
        witness = results[axiom].witness
        assert witness is not None
        assert len(witness.inputs["p"]) == 2
        assert len(witness.inputs["p"][0]) <= 3
        if axiom != JUMPS:
            numbers = [x for row in witness.inputs["p"] for x in row]
            assert all(round(x, 6) == x for x in numbers)


def test_survivors_say_how_hard_was_tried(audited) -> None:
    _, results = audited
    for result in results.values():
        if result.verdict == "survived":
            assert result.attempts >= 50
            assert result.searches
    assert results["pool.normalised"].attempts > 10_000
    assert "gradient" in results["pool.logloss"].searches or results["pool.logloss"].verdict == "falsified"


@pytest.mark.parametrize("name", ORDERS)
def test_a_declared_form_is_certified_where_a_theorem_speaks_of_it(name) -> None:
    pool = Declaring(POOLS[name], mean="power", r=ORDERS[name])
    results = check_pool(pool, name=name)
    assert {r.axiom for r in results if r.verdict == "certified"} == PROVED[name]
    assert {r.axiom for r in results if r.verdict == "falsified"} == BROKEN[name]
    for result in results:
        if result.certificate is not None:
            assert result.certificate.recheck()


def tampered(numbers, path=()):
    """Yield the numbers with one of them changed, for each of them."""
    if isinstance(numbers, dict):
        for key, value in numbers.items():
            for changed in tampered(value):
                yield {**numbers, key: changed}
    elif isinstance(numbers, list):
        for place, value in enumerate(numbers):
            for changed in tampered(value):
                yield [*numbers[:place], changed, *numbers[place + 1 :]]
    elif isinstance(numbers, float):
        yield numbers + 0.01
        yield numbers * 1.05 + 1e-5


@pytest.mark.parametrize("axiom", pool_forms.THEOREMS)
def test_a_certificate_fails_after_any_number_in_it_is_changed(axiom) -> None:
    r = 0.0 if axiom.startswith("pool.temperature") else 1.0
    pool = POOLS["log_linear" if r == 0 else "linear"]
    (result,) = check_pool(Declaring(pool, mean="power", r=r), axioms=[axiom])
    assert result.certificate is not None
    changed = list(tampered(result.certificate.numbers))
    assert len(changed) > 60
    for numbers in changed:
        one = Certificate(result.certificate.kind, "", "", numbers)
        assert not one.recheck()


def test_a_theorem_is_not_stretched_to_other_orders() -> None:
    (result,) = check_pool(Declaring(pools.linear, mean="arithmetic"), axioms=[REGRET])
    assert result.certificate is not None
    numbers = dict(result.certificate.numbers)
    for axiom in SOFT:
        assert not Certificate(pool_forms.KIND, "", "", numbers | {"axiom": axiom}).recheck()
    assert not Certificate(pool_forms.KIND, "", "", numbers | {"instances": []}).recheck()
    assert not Certificate(pool_forms.KIND, "", "", numbers | {"axiom": "no such"}).recheck()


def test_a_false_form_proves_nothing_and_is_told() -> None:
    (result,) = check_pool(Declaring(pools.linear, mean="geometric"), axioms=["pool.logloss"])
    assert result.verdict == "survived"
    assert "it declares the power mean of order 0, but differs from it by" in result.reason


def test_a_form_that_is_none_known_is_left_alone_and_a_wrong_order_is_refused() -> None:
    assert pool_forms.read_form(Declaring(pools.linear, mean="median")) is None
    assert pool_forms.read_form(POOLS["itakura_saito"]) is None
    with pytest.raises(ValueError, match="must give a finite order r"):
        check_pool(Declaring(pools.linear, mean="power", r=float("inf")))


# The witnesses that the pools' own documentation gives, measured by the audit.


def amount(axiom: str, pool, p, w, **extras) -> float:
    ask = next(ask for ask in pool_asks.ASKS if ask.axiom == axiom)
    return float(measured(ask, pool, of_numbers(p, w, **extras))[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("log_linear", 0.633975), ("harmonic", 0.666667), ("itakura_saito", 0.689898), ("power 2", 0.572949)],
)
def test_unanimity(name, value) -> None:
    p, w = [[0.6, 0.1, 0.3], [0.6, 0.3, 0.1]], [0.5, 0.5]
    assert amount(RANGE, POOLS[name], p, w) == pytest.approx(abs(value - 0.6), abs=1e-6)
    assert amount(RANGE, pools.linear, p, w) <= 1e-15
    assert amount(HULL, POOLS[name], p, w) > 1e-3


def test_hand_witnesses() -> None:
    p = [[0.55, 0.44, 0.01], [0.5, 0.1, 0.4]]
    found = amount(COORDINATE, pools.log_linear, p, [0.5, 0.5], share=0.1)
    assert found == pytest.approx(0.657633 - 0.654226, abs=1e-6)
    p = [[1 - 1e-6, 1e-6], [0.1, 0.9]]
    for low, expected in ((1.0, 0.6931 - 0.6779), (2.0, 0.6779 - 0.6548)):
        found = amount(ENTROPY, pools.linear, p, [0.45, 0.55], temperature=low, factor=2.0)
        assert found == pytest.approx(expected, abs=1e-4)


def test_membership_and_separation_are_proved_and_break_when_changed() -> None:
    p = [[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]]
    inside, outside = hull_certificate([0.52, 0.29, 0.19], p), hull_certificate([0.586207, 0.25, 0.163793], p)
    assert (inside.kind, outside.kind) == ("hull membership", "separating vector")
    for proof in (inside, outside):
        assert proof.recheck()
        for numbers in tampered(proof.numbers):
            assert not Certificate(proof.kind, "", "", numbers).recheck()


# Pools of strangers.


def plain_linear(log_p, log_w):
    """Without a floor: zeros become -inf."""
    return (log_w.exp().unsqueeze(-1) * log_p.exp()).sum(dim=0).log()


def single(log_p, log_w):
    return torch.logsumexp(log_p.float() + log_w.float().unsqueeze(-1), dim=0)


def single_inside(log_p, log_w):
    return single(log_p, log_w).to(log_p.dtype)


@torch.no_grad()
def without_gradient(log_p, log_w):
    return pools.linear(log_p, log_w)


@pytest.mark.parametrize("pool", [plain_linear, single, single_inside, without_gradient])
def test_other_programs_of_the_linear_pool_raise_no_alarm(pool) -> None:
    results = {result.axiom: result for result in check_pool(pool)}
    assert falsified(results) == SOFT


def thin(log_p, log_w):
    """A thousandth moves to the first entry where its linear pool is in a range of 1e-4."""
    q = pools.linear(log_p, log_w).exp()
    first = torch.zeros_like(q)
    first[..., 0] = 1
    bump = 1e-3 * ((q[..., :1] > 0.37) & (q[..., :1] < 0.3701))
    return ((1 - bump) * q + bump * first).log()


def test_a_jump_hidden_in_a_thin_region_is_found() -> None:
    (result,) = check_pool(thin, axioms=[JUMPS], budget="standard")
    assert result.witness is not None
    assert result.witness.search == "bisection"
    assert result.witness.violation == pytest.approx(6.3e-4, rel=0.01)
    assert printed(result.witness.replay, thin) == pytest.approx(result.witness.violation)


def nan_at_zero(log_p, log_w):
    q = pools.linear(log_p, log_w)
    return torch.where((log_p <= -1e4).any(dim=0), torch.nan, q)


def test_a_nan_at_zero_is_blamed_on_normalisation_alone() -> None:
    results = {result.axiom: result for result in check_pool(nan_at_zero)}
    assert falsified(results) == {"pool.normalised"} | SOFT
    assert "NaN" in results["pool.normalised"].reason


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (lambda log_p, log_w: log_p, r"the pool answered shape \[\d, \d\] to teachers \[2, 3\], but must answer \[3\]"),
        (lambda log_p, log_w: None, "the pool answered NoneType, but must answer a tensor of log-probabilities"),
        (lambda log_p, log_w: log_p.argmax(0), "the pool answered torch.int64, but must answer floating-point"),
        (lambda log_p, log_w: log_p.misspelt(), "the operator raised AttributeError: 'Tensor' object has no"),
        (lambda log_p: log_p, r"the operator raised TypeError"),
    ],
)
def test_what_is_no_pool_gets_one_clear_sentence(pool, message) -> None:
    results = check_pool(pool)
    assert {result.verdict for result in results} == {"error"}
    for result in results:
        assert result.is_violated
        assert "\n" not in result.reason
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(results[0].reason)


def test_an_error_at_some_sizes_is_told_and_spoils_no_other_axiom() -> None:
    def two_at_most(log_p, log_w):
        if len(log_p) > 8:
            raise RuntimeError("8 teachers at most\nand more")
        return pools.log_linear(log_p, log_w)

    results = {result.axiom: result for result in check_pool(two_at_most)}
    assert results[LOSS].verdict == "error"
    assert results[LOSS].reason == "the operator raised RuntimeError: 8 teachers at most"
    assert results[HULL].verdict == "falsified"


def test_the_same_seed_says_the_same_and_another_may_not() -> None:
    axioms = [HULL, "pool.logloss"]
    one, two = (check_pool(pools.log_linear, axioms=axioms, seed=3) for _ in range(2))
    assert [result.to_json() for result in one] == [result.to_json() for result in two]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"axiom='pool\.convex' does not exist"):
        check_pool(pools.linear, axioms=["pool.convex"])
    with pytest.raises(ValueError, match=r"axiom='token.III.1' is asked of no pool; these are: contract"):
        check_pool(pools.linear, axioms=["token.III.1"])
    with pytest.raises(ValueError, match="kind='weights' must be 'pool'"):
        replay_pool({"kind": "weights"}, pools.linear)


class Remembering:
    """The third call and later ones are off."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, log_p, log_w):
        self.n_calls += 1
        q = pools.linear(log_p, log_w)
        return q if self.n_calls < 6 else torch.log_softmax(0.9 * q, dim=-1)


def centred(log_p, log_w):
    """Weights are those of the batch."""
    shared = log_w.exp().mean(dim=tuple(range(1, log_w.ndim)), keepdim=True).log().expand_as(log_w)
    return pools.linear(log_p, shared.contiguous())


def narrow(log_p, log_w):
    """Works in the type that it is given, and adds one entry after another, with a loss."""
    q = (log_w.exp().unsqueeze(-1) * log_p.exp()).sum(dim=0)
    return (q.clamp_min(0.05) if q.dtype == torch.bfloat16 else q).log()


@pytest.mark.parametrize(
    ("make", "axiom", "search"),
    [
        (Remembering, "contract.state", "repeated calls"),
        (lambda: centred, "contract.rows", "single rows"),
        (lambda: narrow, "pool.normalised", "precision"),
    ],
)
def test_memory_batches_and_low_precision(make, axiom, search) -> None:
    (result,) = check_pool(make(), axioms=[axiom])
    assert result.witness is not None
    assert result.witness.search == search
    assert replay_pool(result.witness.inputs, make()) > 0
    assert printed(result.witness.replay, make()) > 1e-5


def top_sixteen(log_p, log_w):
    """Impossible is what is not among the sixteen likeliest."""
    q = pools.linear(log_p, log_w)
    if q.shape[-1] > 16:
        q = q.masked_fill(q < q.topk(16).values[..., -1:], -1e4)
    return torch.log_softmax(q, dim=-1)


def some_crowds(log_p, log_w):
    return log_p[0] if len(log_p) in (4, 6, 7) or len(log_p) > 64 else pools.linear(log_p, log_w)


def great_crowds(log_p, log_w):
    return log_p[0] if len(log_p) > 64 else pools.linear(log_p, log_w)


@pytest.mark.parametrize("liar", [top_sixteen, some_crowds, great_crowds])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_form_is_not_believed_of_small_pools_alone(liar, seed) -> None:
    for result in check_pool(
        Declaring(liar, mean="arithmetic"), axioms=[HULL, REGRET, "pool.positivity.weak"], seed=seed
    ):
        assert result.certificate is None
        if result.verdict == "survived":
            assert "it declares the power mean of order 1, but differs from it by" in result.reason


def test_the_premise_says_what_was_compared_and_the_seed_draws_some_of_it() -> None:
    premises = []
    for seed in (0, 1):
        (result,) = check_pool(pools.linear, axioms=[REGRET], seed=seed)
        assert result.certificate is not None
        premises.append(result.certificate.premise)
    assert "random cases (teachers 1 to 2" in premises[0]
    assert "entries 2 to 4099; seed 0); nothing else was tried" in premises[0]
    one, two = (
        comparing.drawn_sizes(torch.Generator().manual_seed(n), most_rows=64, most_columns=99, n=9) for n in (0, 1)
    )
    assert one != two
    assert all(1 <= k <= 64 and 2 <= v <= 99 for k, v in one + two)


def test_a_form_with_nothing_to_compare_is_not_believed() -> None:
    assert not comparing.Comparison().is_same
