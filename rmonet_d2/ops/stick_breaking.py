"""Masks that sum to 1 from the segmentation head's logits (Appendix B, Eq. 4-7).

Shape shorthand:
    B: images.  K: components, R = K - 1 of them foreground.  H, W: image size.
    alpha_k = sigmoid(logit_k): the share of the scope that component k takes.
    s_k: scope, the share of a pixel that the first k components leave unexplained.
    m_k: masks, sum_k m_k = 1 at every pixel; the last component, K, is the background.
"""

import torch
import torch.nn.functional as F


def stick_breaking_log_masks(logits: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Compute log masks by stick-breaking, Eq. 4-7, in log space.

    Args:
        logits: (B, R, H, W) logits of alpha_k, in the order in which components take their share.
        support: (B, R, H, W) bool; alpha_k is exactly 0 where it is False.

    Returns:
        (B, K, H, W) float32 log masks, -inf where a foreground mask is exactly 0. As in Eq. 7, the
        background takes the remaining scope.
    """
    logits = logits.float()
    log_alpha = F.logsigmoid(logits).masked_fill(~support, -torch.inf)
    log_rest = F.logsigmoid(-logits).masked_fill(~support, 0.0)
    log_scope = log_rest.cumsum(dim=1)
    log_scope_before = F.pad(log_scope[:, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([log_scope_before + log_alpha, log_scope[:, -1:]], dim=1)


def softmax_log_masks(logits: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Compute log masks by a softmax over the regions and a background with logit 0 (Sec. 3.1).

    Arguments and result are those of :func:`stick_breaking_log_masks`, but the order of the regions
    does not matter.
    """
    logits = logits.float().masked_fill(~support, -torch.inf)
    background = logits.new_zeros(logits[:, :1].shape)
    return F.log_softmax(torch.cat([logits, background], dim=1), dim=1)


MASK_NORMALIZATIONS = {"stick_breaking": stick_breaking_log_masks, "softmax": softmax_log_masks}
