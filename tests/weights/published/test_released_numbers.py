"""Rules against the numbers of the code that their authors released.

Each expected number was printed once, outside this repository, by the released lines named in its test, in float64 on
the fixed input of ``conftest.py`` (and with the parameters given here), at temperature 4 where there is one.
"""

import pytest
import torch

from mashbill.weights.published import aekd, amtmlkd, camkd, ebkd, mmkd, mtkdrl, nemorl
from mashbill.weights.published.aekd import AEKD
from mashbill.weights.published.amtmlkd import AMTMLKD
from mashbill.weights.published.camkd import CAMKD
from mashbill.weights.published.ebkd import EBKD
from mashbill.weights.published.mmkd import MMKD
from mashbill.weights.published.mtkdrl import MTKDRL
from mashbill.weights.published.nemorl import NeMoRL

DOUBLE = torch.float64
DIVERGENCES = torch.tensor(  # T^2 KL(p_k || p_S) at T = 4: Rorozhl/CA-MKD, distiller_zoo/KD.py, DistillKL
    [
        [0.34322609241957736, 0.1278393823183288],
        [0.3432231278195603, 0.9434778173192457],
        [0.8361736045052139, 0.42446788599439556],
    ],
    dtype=DOUBLE,
)
LOSSES = torch.tensor(  # F.cross_entropy(logit_t, target)
    [
        [0.342349582389822, 1.3425355294551626],
        [2.0460063899405725, 3.4401896985611957],
        [3.4401896985611953, 0.2368155424308167],
    ],
    dtype=DOUBLE,
)


def same(found: torch.Tensor, expected, *, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


def test_ca_mkd(fixed) -> None:
    # Rorozhl/CA-MKD, helper/loops.py, train_distill_multi_teacher, branch CAMKD: attention, and loss_div.
    attention = [
        [0.48254437348019136, 0.4472463012976788],
        [0.404098766813634, 0.07021372227406697],
        [0.1133568597061747, 0.48253997642825425],
    ]
    same(camkd.released_weights(LOSSES), attention)
    same(CAMKD()(fixed()).exp().squeeze(-1), attention)
    loss = (camkd.released_coefficients(LOSSES) * DIVERGENCES).sum(dim=0).mean()
    same(loss, 0.12122456340661684)


def test_ebkd(fixed) -> None:
    # Rorozhl/CA-MKD, helper/loops.py, train_distill_multi_teacher, branch EBKD: weight, and loss_div.
    weight = torch.tensor(
        [
            [0.7008156353290778, 0.5486759090620947],
            [0.6219605467773663, 0.6901273069382936],
            [0.6772238178935559, 0.7611967839996115],
        ],
        dtype=DOUBLE,
    )
    entropy = fixed().statistics.entropy.squeeze(-1)
    same(ebkd.released_weights(entropy), weight)
    same(EBKD()(fixed()).exp().squeeze(-1), weight / 2)
    same((ebkd.released_coefficients(entropy) * DIVERGENCES).sum(dim=0).mean(), 0.34410865356511927)


@pytest.mark.parametrize(
    ("w_max", "normalise", "expected"),
    [
        (0.6, False, [0.29275414397865007, 0.24810307435860007, 0.45914278166274985]),
        (0.6, True, [0.29296815910414964, 0.24837744126197064, 0.4586543996338798]),
        (0.4, False, [0.3196522111098492, 0.2803477888901508, 0.4]),
        (0.4, True, [0.2952618791383793, 0.25114489130134404, 0.4535932295602766]),
    ],
)
def test_ae_kd(fixed, w_max: float, normalise: bool, expected: list[float]) -> None:
    # AnTuo1998/AE-KD, helper/optimization.py, find_optimal_svm(nu=1/(C m), is_norm), scikit-learn 1.9.1. Its solver
    # stops within 3e-5 of the minimum: with C = .6 and C = 1, neither of which binds, it differs by 1.3e-5.
    log_weights = AEKD(w_max=w_max, normalise=normalise)(fixed())
    assert log_weights.shape == (3, 2, 1)
    same(log_weights[:, 0, 0].exp(), expected, atol=3e-5)
    same(log_weights[:, 1], log_weights[:, 0])
    teachers, student = (fixed().logprobs / 4).softmax(-1), (fixed().student_logprobs / 4).softmax(-1)
    same(aekd.released_weights((student - teachers)[:, :, 0], w_max=w_max, normalise=normalise), expected, atol=3e-5)


def test_the_released_solver_of_ae_kd_is_further_from_the_minimum_than_ours(fixed) -> None:
    mean = ((fixed().student_logprobs / 4).softmax(-1) - (fixed().logprobs / 4).softmax(-1)).mean(dim=(1, 2))

    def norm(w: torch.Tensor) -> float:
        return float((w / w.sum() @ mean).norm())

    ours = AEKD(w_max=0.6)(fixed())[:, 0, 0].exp()
    released = torch.tensor([0.29275414397865007, 0.24810307435860007, 0.45914278166274985], dtype=DOUBLE)
    assert norm(ours) <= norm(released)


def test_amtml_kd(fixed) -> None:
    # FLHonker/AMTML-KD-code, LR_adaptive_learning.ipynb, Adapter.forward.
    theta = torch.tensor([[0.5, -1.0, 0.2], [1.0, 0.3, -0.4], [-0.2, 0.8, 0.6]], dtype=DOUBLE)
    beta = torch.tensor([[0.3, 1.1, 0.0], [2.0, 0.4, 0.9]], dtype=DOUBLE)
    direction = torch.tensor([0.7, -0.5, 1.2], dtype=DOUBLE)
    expected = [
        [0.5364430468747388, 0.45135781898184274],
        [0.2914767957283619, 0.36659599665200626],
        [0.1720801573968993, 0.1820461843661511],
    ]
    same(amtmlkd.released_weights(theta, beta, direction), expected)
    rule = AMTMLKD(3, 3).double()
    rule.theta.data, rule.direction.data = theta, direction
    same(rule(fixed(features=beta)).exp().squeeze(-1), expected)


def test_mmkd(fixed, teacher_logits, student_logits) -> None:
    # Rorozhl/MMKD, models/meta_util.py, LogitsWeight.forward with these parameters: on raw logits, then on the
    # log-probabilities of the same teachers, which are logits too and are what a rule is given.
    first = torch.arange(128, dtype=DOUBLE).reshape(8, 16).sin(), torch.arange(8, dtype=DOUBLE).cos() * 0.1
    second = (
        (torch.arange(24, dtype=DOUBLE).reshape(3, 8) * 0.7).cos() * 0.3,
        torch.tensor([0.1, 0.0, -0.1], dtype=DOUBLE),
    )
    raw = [
        [0.3321774209772018, 0.3902026022252016],
        [0.3557519146190135, 0.3664069052148006],
        [0.3120706644037846, 0.24339049255999778],
    ]
    same(mmkd.released_weights(teacher_logits, student_logits, first=first, second=second), raw)
    normalised = [
        [0.19102348150153672, 0.4139688416337345],
        [0.39696279323660566, 0.33284958210785426],
        [0.41201372526185764, 0.25318157625841137],
    ]
    rule = MMKD(3, 4).double()
    rule.first.weight.data, rule.first.bias.data = first
    rule.second.weight.data, rule.second.bias.data = second
    same(rule(fixed()).exp().squeeze(-1), normalised)


HEAD = torch.tensor(
    [
        [-0.19435277907969978, 1.0907383271233668],
        [0.7053970338752432, 0.87410710401001],
        [0.054804155849879084, -1.30141369856535],
    ],
    dtype=DOUBLE,
)


def test_mtkd_rl(fixed) -> None:
    # winycg/MTKD-RL in the copy kaiYinTAMU/MTKD-RL, models/policy.py, PolicyTrans.forward, without and with dynamic.
    plain = [
        [0.32279028387459835, 0.3972000943519278],
        [0.3992008046628311, 0.32852313816612216],
        [0.27800891146257056, 0.27427676748195007],
    ]
    dynamic = [
        [0.28735246669025016, 0.35204663604741104],
        [0.3727882417036257, 0.4033371127290919],
        [0.33985929160612416, 0.24461625122349717],
    ]
    same(mtkdrl.released_weights(HEAD, LOSSES, DIVERGENCES), plain)
    factors = torch.tensor([0.5, -0.2, 1.0], dtype=DOUBLE)
    same(mtkdrl.released_weights(HEAD, LOSSES, DIVERGENCES, factors=factors), dynamic)


@pytest.mark.parametrize("dynamic", [False, True])
def test_mtkd_rl_from_state_to_weights(fixed, dynamic: bool) -> None:
    # The same, with get_agent_state of train_loops.py in front (its logit part: divergence, loss, logits, teacher by
    # teacher), run on log-probabilities as logits, with these parameters of the agent.
    rule = MTKDRL(3, 4, n_hidden=5, dynamic=dynamic).double()
    rule.stem.weight.data = (torch.arange(90, dtype=DOUBLE).reshape(5, 18) * 0.3).sin() * 0.2
    rule.head.weight.data = (torch.arange(15, dtype=DOUBLE).reshape(3, 5) * 0.9).cos()
    rule.head.bias.data = torch.tensor([0.2, -0.1, 0.0], dtype=DOUBLE)
    expected = [
        [0.3209633076650396, 0.4763087844535068],
        [0.31623085391088446, 0.24179438123901567],
        [0.36280583842407593, 0.28189683430747753],
    ]
    if rule.factors is not None:
        rule.factors.data = torch.tensor([0.5, -0.2, 1.0], dtype=DOUBLE)
        expected = [
            [0.28560989295415506, 0.4275006703947949],
            [0.2936513288587855, 0.32061504267988516],
            [0.42073877818705946, 0.25188428692531994],
        ]
    same(rule(fixed()).exp().squeeze(-1), expected)


def test_reward_and_loss_of_the_mtkd_rl_agent() -> None:
    # train_loops.py, train (normalised_reward, without its feature term) and train_agent (loss_logits).
    weights = mtkdrl.released_weights(HEAD, LOSSES, DIVERGENCES)
    student_loss = -torch.tensor([[0.5, 0.2, -0.3, 0.1], [-0.4, 0.9, 0.3, 0.0]], dtype=DOUBLE).log_softmax(-1)
    reward = mtkdrl.released_reward(student_loss[[0, 1], [0, 1]], weights, DIVERGENCES)
    same(reward, [0.0, 0.7071067811865475])
    same(mtkdrl.released_agent_loss(weights, reward), 0.39245377403770537)


NEMO = {
    ("ce", 1.0): [0.6584135267004998, 0.09841347203679267, 0.24317300126270752],
    ("ce", 3.0): [0.9490201325824233, 0.0031691504271714587, 0.04781071699040545],
    ("entropy", 1.0): [0.2904801415370001, 0.3211984719936347, 0.38832138646936515],
    ("entropy", 3.0): [0.21092467898605097, 0.28516647418507457, 0.5039088468288745],
    ("max_prob", 1.0): [0.2975058081667812, 0.33283420361040195, 0.36965998822281687],
    ("max_prob", 3.0): [0.23155954338033313, 0.3242352199722263, 0.44420523664744055],
}


@pytest.mark.parametrize(("metric", "alpha"), NEMO)
def test_nemo_rl(fixed, metric, alpha: float) -> None:
    # NVIDIA-NeMo/RL, nemo_rl/algorithms/loss/loss_functions.py, _teacher_weight_score and _compute_dynamic_weights, in
    # one process; its entropy adds 1e-10 inside the logarithm, worth 4e-10 here.
    log_weights = NeMoRL(metric=metric, alpha=alpha)(fixed())
    assert log_weights.shape == (3, 2, 1)
    same(log_weights[:, 0, 0].exp(), NEMO[metric, alpha], atol=2e-9)
    assert torch.equal(log_weights[:, 0], log_weights[:, 1])


@pytest.mark.parametrize(
    ("metric", "expected", "coefficients"),
    [
        ("ce", [0.6916834644, 0.1072468091, 0.2010697263], [0.7217828462, 0.1072468091, 0.2312631239]),
        ("max_prob", [0.2899698505, 0.3174298262, 0.3926003231], [0.3025882138, 0.3174298262, 0.4515546862]),
    ],
)
def test_nemo_rl_by_vocabulary(fixed, metric, expected: list[float], coefficients: list[float]) -> None:
    # The same with normalize_teacher_by_vocab, and _sum_kd's second multiplication; log V in float32 there.
    sizes = {"t0": 50257, "t1": 32000, "t2": 151936}
    found = NeMoRL(metric=metric, vocabulary_sizes=sizes)(fixed())[:, 0, 0].exp()
    same(found, expected, atol=1e-7)
    statistics = fixed().statistics
    score = {"ce": statistics.label_logprob, "max_prob": statistics.max_logprob.exp()}[metric].mean(dim=(1, 2))
    entries = torch.tensor(list(sizes.values()), dtype=DOUBLE)
    same(nemorl.released_weights(score, vocabulary_sizes=entries), found, atol=1e-12)
    same(nemorl.released_coefficients(score, vocabulary_sizes=entries), coefficients, atol=1e-7)
