"""The losses of an update, over the answer tokens of a batch.

Shape legend: N answer tokens of a batch, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_kl(logits_N_V: Tensor, teacher_N_V: Tensor) -> Tensor:
    """KL(P_teacher ‖ P_student) of each token over the full vocabulary, in nats; the teacher as log-probabilities.

    >>> same = torch.tensor([[0.0, 1.0]])
    >>> token_kl(same, same.log_softmax(-1)).item()
    0.0
    """
    return F.kl_div(logits_N_V.log_softmax(-1), teacher_N_V, log_target=True, reduction="none").sum(-1)


def token_cross_entropy(logits_N_V: Tensor, tokens_N: Tensor) -> Tensor:
    """Cross-entropy of each token, in nats."""
    return F.cross_entropy(logits_N_V, tokens_N, reduction="none")


def weighted_mean(losses_N: Tensor, weights_N: Tensor) -> Tensor:
    """Σ w_i · loss_i / Σ w_i. Eq. 3 sums; with a mean the learning rate doesn't depend on the batch's length.

    >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 0.0])).item()
    1.0
    """
    return (weights_N * losses_N).sum() / weights_N.sum().clamp(min=torch.finfo(losses_N.dtype).tiny)
