"""One row through teachers, student and weight rules, before a run writes anything.

What fails here has never worked with this recipe, so it is bad input and not an accident of the run.
"""

import torch

from mashbill.errors import MashbillError
from mashbill.train.assemble import TRAIN, Parts
from mashbill.train.gather import Knowledge, gather
from mashbill.train.targets import require_answers
from mashbill.weights.evidence import needs_of


def rehearse(parts: Parts) -> None:
    """Ask everyone about the first training row.

    Raises:
        MashbillError: A teacher cannot be opened, fails or gives no distribution; a weight rule fails, or gives
            something that is no weight.
    """
    corpus = parts.corpora[TRAIN]
    scored = require_answers(parts.teachers, corpus, others=list(parts.corpora.values()))
    batch = corpus.batch(torch.zeros(1, dtype=torch.long))
    module = parts.student.module
    was_training = module.training
    module.eval()  # dropout would draw from the caller's random state
    with torch.no_grad():
        logits = parts.student.logits(batch.to(next(module.parameters()).device))
    module.train(was_training)
    needs = needs_of(parts.operator)
    evidence = gather(corpus, batch, scored, Knowledge.supposed(corpus), needs=needs, student_logits=logits)
    try:
        log_weights = parts.operator(evidence)
    except MashbillError:
        raise
    except Exception as error:  # whatever a rule's own code raises
        why = f"{type(error).__name__}: {error}"
        help = "correct the rule's options, or the rule"
        raise MashbillError("a weight rule fails", where="weighting", why=why, help=help) from error
    if log_weights.shape[:2] != (evidence.n_teachers, 1) or bool(log_weights.isnan().any()):
        raise MashbillError(
            "a weight rule gives something that is no weight",
            where="weighting",
            why=f"for the first training row: {log_weights.detach().flatten().tolist()[:8]}",
            help="correct the rule's options, or the rule",
        )
